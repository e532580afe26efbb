"""The sink as the process it is: what it counts is what was sent."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic_ns

import pytest

from broker.bench.control import Child, ChildFailed, Nothing
from broker.bench.sink import OK, Ports, SinkOrder, SinkReport


@pytest.fixture
async def sink() -> AsyncIterator[Child]:
    child = await Child.start("broker.bench.sink")
    yield child
    await child.stop()


async def listen(sink: Child, ports: int) -> list[int]:
    return (await sink.ask(SinkOrder(do="listen", ports=ports), Ports)).ports


async def report(sink: Child) -> SinkReport:
    return await sink.ask(SinkOrder(do="report"), SinkReport)


def push(webhook_id: str, *, sent_ns: int = 1) -> bytes:
    body = b'{"content":{"sent_ns":%d}}' % sent_ns
    head = b"POST /hook HTTP/1.1\r\nhost: x\r\nwebhook-id: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (webhook_id.encode(), len(body)) + body


async def send(port: int, pieces: list[bytes], *, answers: int) -> None:
    """Send pieces as packets of their own and wait for so many answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.002)  # lets the piece leave alone; correctness does not depend on it
    assert await reader.readexactly(len(OK) * answers) == OK * answers
    writer.close()
    await writer.wait_closed()


async def test_counts_requests_of_all_ports(sink: Child) -> None:
    ports = await listen(sink, 5)
    assert len(set(ports)) == 5
    await asyncio.gather(*(send(port, [push(f"id-{port}")], answers=1) for port in ports))
    found = await report(sink)
    assert (found.requests, found.distinct, found.duplicates) == (5, 5, 0)


async def test_request_in_many_packets_counts_once(sink: Child) -> None:
    (port,) = await listen(sink, 1)
    whole = push("a") + push("b")
    pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    await send(port, pieces, answers=2)
    found = await report(sink)
    assert (found.requests, found.distinct, found.duplicates) == (2, 2, 0)


async def test_repeated_id_is_a_duplicate(sink: Child) -> None:
    (port,) = await listen(sink, 1)
    await send(port, [push("a") + push("b") + push("a")], answers=3)
    await send(port, [push("a")], answers=1)
    found = await report(sink)
    assert (found.requests, found.distinct, found.duplicates) == (4, 2, 2)


async def test_latency_counts_from_the_time_in_the_body(sink: Child) -> None:
    (port,) = await listen(sink, 1)
    await send(port, [push("a", sent_ns=monotonic_ns() - 3_000_000_000)], answers=1)
    latencies = (await report(sink)).latencies
    assert latencies.count == 1
    assert 3_000 <= latencies.p50_ms < 10_000


async def test_reset_forgets_everything(sink: Child) -> None:
    (port,) = await listen(sink, 1)
    await send(port, [push("a")], answers=1)
    await sink.ask(SinkOrder(do="reset"), Nothing)
    found = await report(sink)
    assert (found.requests, found.distinct, found.latencies.count, found.last_ns) == (0, 0, 0, 0)


async def test_child_that_dies_is_an_error_for_the_driver(sink: Child) -> None:
    with pytest.raises(ChildFailed, match="sink answered"):
        await sink.ask(SinkOrder(do="nonsense"), Nothing)
