"""What is true of every operation: the table, the document made from it, errors, limits, stores away."""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from gateway_rig import Register, calling, held, settings_for, until_ready

from broker.gateway.call import Scope
from broker.gateway.operation import Operation
from broker.gateway.operations import OPERATIONS
from broker.gateway.serve import Running, running
from schema.ids import new_id

OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs"}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_row_of_the_table_is_complete(operation: Operation) -> None:
    assert operation.summary
    assert operation.handler.__doc__
    assert operation.replies
    assert (operation.scope is None) == (operation.path in OPEN)
    assert operation.scope is None or isinstance(operation.scope, Scope)
    assert (operation.body is not None) == (
        operation.method in ("POST", "PUT", "PATCH") and operation.name != "heartbeat"
    )
    assert 0 < operation.body_bytes_max <= 8 * 1024 * 1024
    assert issubclass(operation.query, msgspec.Struct)


def test_names_and_routes_are_unique() -> None:
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)


async def test_the_page_loads_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "http" not in page.text.replace("document", "")


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
