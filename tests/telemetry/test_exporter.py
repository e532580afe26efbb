"""The metrics port, and the page that gathers several processes."""

import asyncio
import socket

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.telemetry import readiness
from broker.telemetry.exporter import HEAD_BYTES_MAX, PortTaken, serving_metrics
from broker.telemetry.gathering import merge, scrape


async def request(port: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_metrics_are_served_and_scraped() -> None:
    async with serving_metrics("127.0.0.1", 0) as port:
        page = await scrape("127.0.0.1", port)
    assert page is not None
    assert b"agent_broker_build_info" in page


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /readyz HTTP/1.1\r\n\r\n", b"200"),
        (b"POST /readyz HTTP/1.1\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"404"),
    ],
)
async def test_the_port_answers(text: bytes, status: bytes) -> None:
    async with serving_metrics("127.0.0.1", 0) as port:
        assert (await request(port, text)).split()[1] == status


async def test_a_process_that_waits_for_a_store_says_so_and_for_which() -> None:
    async with serving_metrics("127.0.0.1", 0) as port:
        readiness.awaits("postgres", "no directory of agents yet")
        try:
            answer = await request(port, b"GET /readyz HTTP/1.1\r\n\r\n")
            page = await scrape("127.0.0.1", port)
        finally:
            readiness.has("postgres")
        after = await request(port, b"GET /readyz HTTP/1.1\r\n\r\n")
    assert answer.split()[1] == b"503"
    assert answer.endswith(b"waits for postgres: no directory of agents yet\n")
    assert page is not None
    assert b'agent_broker_awaited_stores{store="postgres"} 1.0' in page
    assert after.split()[1] == b"200"


async def test_an_endless_head_is_cut_off() -> None:
    async with serving_metrics("127.0.0.1", 0) as port:
        with pytest.raises(OSError):  # noqa: PT012  # the reset comes with the write or with the read
            assert await request(port, b"x" * (HEAD_BYTES_MAX * 4)) == b""
            raise ConnectionResetError


async def test_a_taken_port_is_said_in_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port}"):
            async with serving_metrics("127.0.0.1", port):
                pass


async def test_a_process_that_does_not_answer_is_left_out() -> None:
    async with serving_metrics("127.0.0.1", 0) as port:
        pass
    assert await scrape("127.0.0.1", port) is None


ONE = b"""# HELP a_total Things.
# TYPE a_total counter
a_total{kind="x"} 1.0
# HELP h_seconds Wait.
# TYPE h_seconds histogram
h_seconds_bucket{le="1.0"} 1.0
h_seconds_bucket{le="+Inf"} 2.0
h_seconds_count 2.0
h_seconds_sum 3.0
"""
TWO = b"""# HELP g Level.
# TYPE g gauge
g 5.0
# HELP a_total Things.
# TYPE a_total counter
a_total{kind="x"} 7.0
"""


def test_pages_are_merged_by_family_with_a_process_label() -> None:
    page = merge({"worker-1": ONE, "worker-2": TWO}).decode()
    assert page.count("# TYPE a_total counter") == 1
    assert page.count("# HELP a_total Things.") == 1
    assert 'a_total{kind="x",process="worker-1"} 1.0' in page
    assert 'a_total{kind="x",process="worker-2"} 7.0' in page
    assert 'h_seconds_bucket{le="+Inf",process="worker-1"} 2.0' in page
    assert 'g{process="worker-2"} 5.0' in page
    families = [family.name for family in text_string_to_metric_families(page)]
    assert sorted(families) == ["a", "g", "h_seconds"]
