"""What is true of every operation: methods, paths, headers, errors, limits, stores away."""

import asyncio
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cluster import client_of, close
from gateway_rig import OPERATOR_KEY, Register, calling, held, settings_for, until_ready

from broker.gateway.operations import OPERATIONS
from broker.gateway.serve import Running, running
from broker.streams.keys import GatedKeys, Keys
from schema import limits
from schema.ids import new_id
from schema.message import Lane

PAGES = [
    ("GET", "/docs", "text/html"),
    ("GET", "/docs/docs.css", "text/css"),
    ("GET", "/docs/docs.js", "text/javascript"),
]


async def test_the_page_ships_with_the_package_and_loads_nothing_from_elsewhere(
    http: httpx.AsyncClient,
) -> None:
    for method, path, media_type in PAGES:
        page = await http.request(method, path)
        assert page.headers["Content-Type"] == f"{media_type}; charset=utf-8"
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert "://" not in page.text
        again = await http.get(path, headers={"If-None-Match": page.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert (await http.get(path, headers={"If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/nothing", {}, 404, "not_found"),
        ("DELETE", "/api/messages", {}, 405, "method_not_allowed"),
        ("POST", "/api/agents", {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        ("POST", "/api/agents", {"Content-Type": "text/xml"}, 415, "unsupported_media_type"),
        ("POST", "/api/agents", {"Content-Type": "application/json; charset=utf-8"}, 422, "invalid"),
        ("POST", "/api/agents", {"Content-Type": "application/vnd.x+json"}, 422, "invalid"),
        ("POST", "/api/agents", {"X-Request-Id": "mine"}, 422, "invalid"),
    ],
)
async def test_errors_have_one_shape(
    http: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    reply = await http.request(method, path, content=b"{}", headers=headers)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"] == reply.headers["X-Request-Id"]
    assert headers.get("X-Request-Id", error["request_id"]) == error["request_id"]
    assert (status == 405) == ("Allow" in reply.headers)


async def test_every_reply_carries_the_id_of_its_request(http: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", "/healthz"),
        ("GET", "/api/agents"),
        ("OPTIONS", "/api/agents"),
        ("GET", "/no"),
    ):
        own = await http.request(method, path, headers={"X-Request-Id": "mine:1"})
        assert own.headers["X-Request-Id"] == "mine:1"
        made = [(await http.request(method, path)).headers["X-Request-Id"] for _ in range(2)]
        assert len(set(made)) == 2
        unfit = await http.request(method, path, headers={"X-Request-Id": "not fit for a log"})
        assert unfit.headers["X-Request-Id"] != "not fit for a log"


async def test_head_is_get_without_the_body(http: httpx.AsyncClient, register: Register) -> None:
    await register("here")
    shown = await http.get("/api/agents/here")
    head = await http.head("/api/agents/here")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == shown.headers["Content-Length"]
    assert (await http.head("/api/agents/nobody")).status_code == 404
    assert (await http.head("/api/messages/batch")).status_code in (404, 405)
    async with httpx.AsyncClient(base_url=http.base_url, trust_env=False) as nobody:
        assert (await nobody.head("/api/agents/here")).status_code == 401


async def test_options_says_what_a_path_takes_and_needs_no_key(http: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient(base_url=http.base_url, trust_env=False) as nobody:
        reply = await nobody.options("/api/messages")
        assert (reply.status_code, reply.content) == (204, b"")
        assert reply.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
        assert (await nobody.options("/nothing")).status_code == 404


async def test_a_method_a_path_does_not_take_is_405_with_those_it_does(http: httpx.AsyncClient) -> None:
    for operation in OPERATIONS:
        path = operation.path.replace("{", "").replace("}", "")
        reply = await http.request("TRACE", path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_allowed")
        assert operation.method in reply.headers["Allow"].split(", ")


async def test_a_trailing_slash_changes_nothing(http: httpx.AsyncClient, register: Register) -> None:
    agent = await register("a")
    assert (await http.get("/api/agents/")).json() == (await http.get("/api/agents")).json()
    assert (await http.get(f"/api/agents/{agent['id']}/")).status_code == 200


async def test_unknown_parameters_are_ignored_and_of_a_repeated_one_the_last_counts(
    http: httpx.AsyncClient, register: Register
) -> None:
    for name in "abc":
        await register(name)
    reply = await http.get("/api/agents?limit=1&colour=blue&limit=2&status=")
    assert (reply.status_code, len(reply.json())) == (200, 2)
    reply = await http.get("/api/agents?limit=2&limit=none")
    assert (reply.status_code, reply.json()["error"]["field"]) == (422, "limit")


async def test_null_is_no_value_of_a_query(http: httpx.AsyncClient) -> None:
    for path in ("/api/agents?online=null", "/api/dead-letters?since=NULL", "/api/agents?limit=null"):
        assert (await http.get(path)).status_code == 422


async def test_an_agent_without_a_name_is_nobody_not_everybody(http: httpx.AsyncClient) -> None:
    reply = await http.post("/api/dead-letters/replay", json={"agent_id": "", "reason": "exhausted"})
    assert reply.status_code == 404


NAMES = ["Zoë", "агент", "代理 7", "50% off", "a+b", "a&b=c?d#e", "..x", "🚗"]
NOBODY = ["na%2Fme", "%00", "%ff%fe", "%", "%zz", "..", "%2e%2e%2fhealthz", "a" * 4_000]


async def test_names_work_in_paths_queries_and_headers_whatever_they_hold(
    http: httpx.AsyncClient, register: Register
) -> None:
    for name in NAMES:
        agent = await register(name)
        assert (await http.get(f"/api/agents/{quote(name, safe='')}")).json()["name"] == name
        listed = await http.get("/api/messages", params={"to_agent_id": name})
        assert listed.status_code == 200
        claim = {"X-Agent-Id": name.encode()}
        beat = await http.post("/api/v1/messaging/heartbeat", headers=claim)
        assert beat.json()["agent_id"] == agent["id"]


async def test_no_such_agent_however_its_name_is_spelled(http: httpx.AsyncClient) -> None:
    for path in NOBODY:
        head = f"GET /api/agents/{path} HTTP/1.1\r\nAuthorization: Bearer {OPERATOR_KEY}\r\n"
        reply = await _raw(http, head)
        assert reply.startswith(b"HTTP/1.1 404 "), path
        assert b'{"error":{"code":"not_found"' in reply


async def test_replies_are_json_whatever_a_client_would_like_better(http: httpx.AsyncClient) -> None:
    for accept in ("text/html", "application/xml", "*/*", "nonsense", "image/*;q=0"):
        reply = await http.get("/api/agents", headers={"Accept": accept})
        assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/json")


async def test_no_origin_is_let_in_unless_it_is_allowed(http: httpx.AsyncClient) -> None:
    asking = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"}
    for method in ("GET", "OPTIONS"):
        reply = await http.request(method, "/api/agents", headers=asking)
        assert [name for name in reply.headers if name.startswith("access-control")] == []


HEADS = [
    ("GET /healthz HTTP/1.1\r\nX-Much: " + "a" * 70_000 + "\r\n", 431, b"head_too_large"),
    ("GET /healthz HTTP/1.1\r\n" + "X-Many: 1\r\n" * 8_000, 431, b"head_too_large"),
    (f"GET /healthz?{'a' * 70_000} HTTP/1.1\r\n", 431, b"head_too_large"),
    ("nothing like HTTP\r\n", 400, b"malformed"),
    ("GET /healthz HTTP/1.1\r\nbad header\r\n", 400, b"malformed"),
]


async def test_a_head_beyond_its_bounds_is_refused_in_the_same_shape(http: httpx.AsyncClient) -> None:
    for head, status, code in HEADS:
        reply = await _raw(http, head)
        assert reply.startswith(b"HTTP/1.1 %d " % status), reply[:200]
        assert b'{"error":{"code":"%s"' % code in reply
        assert b"x-request-id" in reply


async def test_a_header_without_an_end_is_cut_off_and_others_are_served(http: httpx.AsyncClient) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nX-Endless: ")
    with suppress(ConnectionError):  # what is said is lost where more was on its way
        async with asyncio.timeout(20):
            while not reader.at_eof():
                writer.write(b"a" * 65_536)
                await writer.drain()
                await asyncio.sleep(0)
    writer.close()
    assert (await http.get("/healthz")).status_code == 200


async def test_a_head_that_comes_too_slowly_is_cut_off(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_RECEIVE_MS_MAX", 50)
    reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
    async with asyncio.timeout(10):
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_head_and_many_requests_on_one_connection_are_counted_each_by_itself(
    http: httpx.AsyncClient,
) -> None:
    for _ in range(3):
        reply = await http.get("/healthz", headers={"X-Long": "a" * 40_000})
        assert reply.status_code == 200


async def _raw(http: httpx.AsyncClient, head: str) -> bytes:
    """Send a head as it stands; return all that comes back until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
    writer.write(head.encode() + b"Host: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(20):
        reply = await reader.read()
    writer.close()
    return reply


async def test_a_chunked_body_is_bounded_too(http: httpx.AsyncClient) -> None:
    async def drip() -> Any:
        for _ in range(64):
            yield b" " * 8_192

    reply = await http.post("/api/messages", content=drip())
    assert reply.status_code == 413


async def test_without_postgres_publishing_to_a_uuid_goes_on_and_queries_say_when_to_come_back(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("to")
    async with calling(gateway, agent["api_key"]) as client:
        assert (await client.get("/api/agents/to")).status_code == 200
        await gateway.services.pool.aclose()
        stranger = new_id()
        for reference in (agent["id"], stranger):
            sent = await client.post("/api/messages?timeout_ms=200", json={"to_agent_id": reference})
            assert (sent.status_code, sent.json()["status"]) == (201, "pending")
        beat = await http.post(f"/api/agents/{agent['id']}/heartbeat")
        assert beat.status_code == 200
        for path in ("/api/agents", f"/api/messages/{stranger}", "/api/messages"):
            reply = await client.get(path)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable")
            assert int(reply.headers["Retry-After"]) > 0
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["redis"] == "ok"
        assert (await client.get("/healthz")).status_code == 200


async def test_the_fast_profile_says_that_replies_are_buffered(streams_url: str, database_url: str) -> None:
    async with held(settings_for(streams_url, database_url, durability="everysec")) as gateway:
        await until_ready(gateway)
        async with calling(gateway) as http:
            await http.post("/api/agents", json={"name": "to"})
            one = await http.post("/api/messages?wait=accepted", json={"to_agent_id": "to"})
            many = await http.post("/api/messages/batch", json=[{"to_agent_id": "to"}])
            assert (one.json()["durability"], many.json()["durability"]) == ("buffered", "buffered")


async def test_a_gateway_that_stops_answers_who_waits_at_once(streams_url: str, database_url: str) -> None:
    async with held(settings_for(streams_url, database_url)) as gateway:
        await until_ready(gateway)
        async with calling(gateway) as http:
            await http.post("/api/agents", json={"name": "to"})
            sending = asyncio.create_task(
                http.post("/api/messages?wait=processed&timeout_ms=60000", json={"to_agent_id": "to"})
            )
            async with asyncio.timeout(10):
                while not len(gateway.services.waiters):  # noqa: ASYNC110  # nobody tells of a new waiter
                    await asyncio.sleep(0.01)
                gateway.stop.set()
                assert (await sending).json()["status"] == "pending"


async def test_a_gateway_with_another_number_of_shards_ends(
    gateway: Running, streams_url: str, database_url: str
) -> None:
    async def run() -> None:
        async with running(settings_for(streams_url, database_url, shards=3)) as other:
            await other.stop.wait()

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert "2 shards" in str(caught.value.exceptions[0])


async def test_a_gateway_publishes_nothing_where_routers_would_take_it_for_unsigned(
    streams_url: str, database_url: str
) -> None:
    raw = client_of(streams_url)
    raw.hset(Keys(0).signed, "normal", "0-0")
    try:
        async with held(settings_for(streams_url, database_url)) as other, calling(other) as http:
            await http.post("/api/agents", json={"name": "to"})
            refused = await http.post("/api/messages", json={"to_agent_id": "to"})
            assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
            # Signatures are required no more, or this gateway hears of them.
            raw.delete(Keys(0).signed)
            await until_ready(other)
        raw.hset(Keys(0).signed, "normal", "0-0")
        told = settings_for(streams_url, database_url, require_signed_ingress=True)
        async with held(told) as fine, calling(fine) as http:
            await until_ready(fine)
            sent = await http.post("/api/messages?wait=accepted", json={"to_agent_id": "to"})
            assert sent.status_code == 202
        assert sum(raw.xlen(GatedKeys(shard).ingress[Lane.NORMAL]) for shard in range(2)) == 1
        assert sum(raw.xlen(Keys(shard).ingress[Lane.NORMAL]) for shard in range(2)) == 0
    finally:
        close(raw)
