"""Ways around who may do what: other sites' pages, narrow keys, replays, orders without end."""

from typing import Any

import httpx
import pytest
from gateway_rig import Register, calling, held, settings_for, until_ready
from ledger_events import envelope, settled
from realtime_rig import talking
from recording import Recorder
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from broker.gateway.serve import Running
from schema import limits
from schema.message import Status

STREAM = "/api/v1/messaging/stream?agent_id=a"
ORDER = "/api/v1/messaging/work-order"


async def test_without_authentication_no_other_sites_page_is_served(
    streams_url: str, database_url: str
) -> None:
    """A browser on this machine sends a form, or reads under a name that points here (DNS rebinding)."""
    settings = settings_for(streams_url, database_url, require_authentication=False)
    async with held(settings) as gateway:
        await until_ready(gateway)
        own, port = f"127.0.0.1:{gateway.port}", gateway.port
        form = {"Content-Type": "text/plain"}
        foreign = [
            {"Origin": "https://elsewhere.example"},
            {"Origin": "null"},
            {"Origin": "http://[broken"},
            {"Origin": f"http://127.0.0.1:{port + 1}"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Host": f"rebound.example:{port}", "Origin": f"http://rebound.example:{port}"},
            {"Host": "[broken"},
            {"Host": "10.0.0.1"},
        ]
        async with calling(gateway, None) as client:
            for number, headers in enumerate(foreign):
                body = b'{"name":"evil %d"}' % number
                reply = await client.post("/api/agents", content=body, headers=form | headers)
                assert (headers, reply.status_code) == (headers, 403)
                reply = await client.get(STREAM, headers=headers)
                assert (headers, reply.status_code) == (headers, 403)
                if "Host" not in headers:
                    with pytest.raises(InvalidStatus) as refused:
                        await _upgrade(gateway, headers)
                    assert refused.value.response.status_code == 403
            assert (await client.get("/api/agents")).json() == []
            for headers in (
                {"Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"},
                {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"},
                {"Host": f"[::1]:{port}"},
                {"Sec-Fetch-Site": "none"},
                {},
            ):
                assert (await client.get("/api/agents", headers=headers)).status_code == 200, headers
            assert (await client.get("/healthz", headers={"Host": "probe"})).status_code == 200


async def _upgrade(gateway: Running, headers: dict[str, str]) -> None:
    url = gateway.url.replace("http", "ws", 1) + STREAM
    async with connect(url, additional_headers=headers, proxy=None):
        pass


async def test_a_key_that_may_not_read_agents_watches_none(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    for name in ("a", "b"):
        await register(name)
    narrow = await http.post("/api/agents/a/keys", json={"scopes": ["messages:read"]})
    key = narrow.json()["api_key"]
    async with calling(gateway, key) as client:
        assert (await client.get("/api/v1/messaging/presence/b")).status_code == 403
        assert (await client.get("/api/v1/messaging/stream?watch=b")).status_code == 403
        assert (await client.get("/api/v1/messaging/stream?watch=*")).status_code == 403
    async with talking(gateway, key) as socket:
        assert (await socket.next())["type"] == "hello"
        for frame in (
            {"type": "send", "message": {"to_agent_id": "b"}},
            {"type": "reply", "message_id": "x", "content": {}},
            {"type": "ack", "message_id": "x"},
            {"type": "heartbeat"},
        ):
            assert (await socket.ask(**frame))["error"]["code"] == "forbidden"


@pytest.mark.parametrize(("policy", "is_replayed"), [("open", 1), ("contacts_only", 0), ("closed", 0)])
async def test_a_replay_is_no_way_around_whom_the_recipient_takes_messages_of(
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    recorder: Recorder,
    policy: str,
    is_replayed: int,
) -> None:
    a, b = await register("a"), await register("b")
    lost = envelope(from_agent_id=a["id"], to_agent_id=b["id"])
    await recorder.write([settled(lost, status=Status.FAILED, reason="exhausted")])
    await http.patch("/api/agents/b", json={"contact_policy": policy})
    async with calling(gateway, a["api_key"]) as sender:
        told = (await sender.post("/api/dead-letters/replay", json={"ids": [lost.id]})).json()
    assert (told["replayed"], told["skipped"]) == (is_replayed, 1 - is_replayed)
    if not is_replayed:
        async with calling(gateway, b["api_key"]) as recipient:
            told = (await recipient.post("/api/dead-letters/replay", json={"ids": [lost.id]})).json()
        assert told["replayed"] == 1


async def test_an_agent_has_no_more_than_so_many_orders_under_way(
    http: httpx.AsyncClient, register: Register, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WORK_ORDERS_UNFINISHED_MAX", 2)
    for name in ("a", "b"):
        await register(name)

    async def order(**of: Any) -> httpx.Response:
        return await http.post(ORDER, params={"from_agent_id": "a"}, json={"title": "t", **of})

    made = [await order(to_agent_id="b"), await order(capabilities=["rare"])]
    assert [one.status_code for one in made] == [201, 201]
    refused = await order(capabilities=["rare"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "too_many_work_orders")
    first = made[0].json()["work_order_id"]
    assert (await http.post(f"{ORDER}/{first}/cancel", params={"agent_id": "a"})).status_code == 200
    assert (await order(to_agent_id="b")).status_code == 201
