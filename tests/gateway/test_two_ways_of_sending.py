"""The short way of sending a message is the ordinary one for less: the same requests through both.

`timeout_ms=5000` is what holds anyway, but only the framework reads it: with it a request goes the ordinary
way. Late word of a change makes the gateway forget what the short way needs, so that a request takes the
ordinary one: a test that wants the short way asks until it is taken.
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest
from cluster import async_client_of
from gateway_rig import OPERATOR_KEY, Register, calling, held, settings_for, until_ready
from recording import Recorder

from broker.gateway import plain_messages, waiting
from broker.gateway.call import Principal
from broker.gateway.exchange import Exchange
from broker.gateway.quick_batch import QuickBatch
from broker.gateway.quick_send import Made, QuickSend
from broker.gateway.serve import Running
from broker.store import messages as stored_messages
from broker.store.pool import Pool
from broker.streams.connection import open_connection
from broker.streams.keys import Keys
from broker.streams.lanes import IngressEntry
from broker.telemetry import metrics
from schema import limits
from schema.codec import encode
from schema.errors import StreamsFull
from schema.ids import new_id
from schema.message import LANES, Envelope, MessageView, SendRequest

QUICK = "/api/messages?wait=accepted"
ORDINARY = "/api/messages?wait=accepted&timeout_ms=5000"
EACH_ITS_OWN = ("id", "root_id", "created_at", "request_id")
"""Fields of a reply that no two requests share."""
OLD = "0190a0b1-0000-7000-8000-000000000000"


class Case(NamedTuple):
    """A request that both ways must answer alike. `quick`: whether the short way answers it itself."""

    quick: bool
    body: Any
    headers: Mapping[str, str] = MappingProxyType({})


def to(name: str = "to", **more: Any) -> dict[str, Any]:
    return {"to_agent_id": name, **more}


NONE = "no such header"
TRIES = 200
PLAIN = encode(to())
CASES = {
    "by name": Case(True, to(content={"a": [1, "x"]})),
    "by id": Case(True, to("{to}")),
    "by id in capitals": Case(True, to("{TO}")),
    "everything": Case(
        True,
        to(
            conversation_id="c", message_type="task", priority=2, content={"requirements": ["x"]},
            metadata={"max_retries": 3}, requirements=["a", "a"], expires_at="2099-01-01T02:00:00+02:00",
        ),
    ),
    "metadata null": Case(True, to(metadata=None, priority=9)),
    "unknown fields": Case(True, to(colour="red", status="delivered", hop=7)),
    "by capability": Case(True, {"content": {"requirements": ["x", "y"]}}),
    "own name": Case(False, to(from_agent_id="from")),
    "own id": Case(True, to(from_agent_id="{from}")),
    "another's name": Case(False, to(from_agent_id="to")),
    "new id": Case(True, to(id="{new}")),
    "new id in capitals": Case(True, to(id="{NEW}")),
    "old id": Case(False, to(id=OLD)),
    "scheduled": Case(False, to(deliver_at="2026-01-01T00:00:00Z")),
    "scheduled too far": Case(False, to(deliver_at="2999-01-01T00:00:00Z")),
    "reply": Case(False, to(reply_to=OLD)),
    "to itself": Case(True, to("from")),
    "to nobody": Case(False, to("nobody")),
    "to an odd name": Case(False, to("\u0000")),
    "to one who is disabled": Case(False, to("disabled")),
    "to one with contacts only": Case(False, to("guarded")),
    "to one who is closed": Case(False, to("closed")),
    "nowhere": Case(False, {"content": {}}),
    "two faults": Case(False, to(priority=0, message_type="", content=[])),
    "wrong types": Case(False, to(priority="x", content=5)),
    "no JSON": Case(False, b'{"to_agent_id":'),
    "more after it": Case(False, PLAIN + b" x"),
    "no UTF-8": Case(False, b'{"to_agent_id":"to","content":{"a":"\xff"}}'),
    "NUL": Case(False, b'{"to_agent_id":"to","content":{"a":"\\u0000"}}'),
    "half a pair": Case(False, b'{"to_agent_id":"to","content":{"a":"\\ud800"}}'),
    "too deep": Case(False, b'{"to_agent_id":"to","content":' + b'{"a":' * 999 + b"1" + b"}" * 1_000),
    "huge number": Case(False, b'{"to_agent_id":"to","content":{"a":1e999}}'),
    "nothing": Case(False, b""),
    "array": Case(False, b"[]"),
    "as large as may be": Case(True, to(content={"a": "x" * (limits.MESSAGE_BYTES_MAX - 60)})),
    "too large": Case(False, to(content={"a": "x" * limits.MESSAGE_BYTES_MAX})),
    "request id": Case(True, to(), {"X-Request-Id": "mine-1"}),
    "unfit request id": Case(True, to(), {"X-Request-Id": "a b"}),
    "other headers": Case(True, to(), {"Cookie": "a=b", "Accept": "text/html"}),
    "asking whether to go on": Case(False, to(), {"Expect": "100-continue"}),
    "the last on its connection": Case(False, to(), {"Connection": "close"}),
    "charset": Case(False, to(), {"Content-Type": "application/json; charset=utf-8"}),
    "form": Case(False, to(), {"Content-Type": "application/x-www-form-urlencoded"}),
    "no type": Case(True, to(), {"Content-Type": NONE}),
    "empty type": Case(False, to(), {"Content-Type": ""}),
    "page": Case(False, to(), {"Content-Type": "text/html"}),
    "compressed": Case(False, gzip.compress(PLAIN), {"Content-Encoding": "gzip"}),
    "own claim": Case(False, to(), {"X-Agent-Id": "{from}"}),
    "claim of another": Case(False, to(), {"X-Agent-Id": "to"}),
    "operator": Case(True, to(), {"Authorization": f"Bearer {OPERATOR_KEY}"}),
    "operator for one": Case(False, to(from_agent_id="from"), {"Authorization": f"Bearer {OPERATOR_KEY}"}),
    "operator for nobody": Case(False, to(from_agent_id="x"), {"Authorization": f"Bearer {OPERATOR_KEY}"}),
    "other scheme": Case(False, to(), {"Authorization": f"Basic {OPERATOR_KEY}"}),
    "wrong key": Case(False, to(), {"Authorization": f"Bearer {OPERATOR_KEY}x"}),
    "key without the scope": Case(False, to(), {"Authorization": "Bearer {reader}"}),
    "revoked key": Case(False, to(), {"Authorization": "Bearer {revoked}"}),
}  # fmt: skip


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by a message id for every message published the short way."""
    found: list[str] = []
    plain, envelope = QuickSend._plain, QuickSend._envelope

    def noted_plain(self: QuickSend, principal: Principal, request: SendRequest) -> Made | None:
        made = plain(self, principal, request)
        if made is not None:
            found.append(made[1])
        return made

    def noted(self: QuickSend, principal: Principal, request: SendRequest) -> Envelope | None:
        message = envelope(self, principal, request)
        if message is not None:
            found.append(message.id)
        return message

    monkeypatch.setattr(QuickSend, "_plain", noted_plain)
    monkeypatch.setattr(QuickSend, "_envelope", noted)
    return found


async def until_taken(taken: list[Any], ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until it goes the short way; return what that gave, and leave only that in `taken`."""
    answer: Any = None
    for _ in range(TRIES):
        taken.clear()
        answer = await ask()
        if taken:
            return answer
    raise AssertionError(f"the ordinary way every time: {answer}")


class World:
    """Agents of every kind, and a client that speaks as one of them."""

    def __init__(self, http: httpx.AsyncClient, url: str, values: dict[str, str]) -> None:
        self.http = http
        self._url = url
        self._values = values

    async def ask(self, way: str, case: Case) -> tuple[Any, ...]:
        """Return everything of the reply that another request may share, and what it left on the streams."""
        before = await self._entries()
        body = case.body if isinstance(case.body, bytes) else self.filled(encode(case.body))
        headers = {name: self.filled(value.encode()).decode() for name, value in case.headers.items()}
        headers = {"Content-Type": "application/json"} | headers
        sent = {name: value for name, value in headers.items() if value != NONE}
        reply = await self.http.post(way, content=body, headers=sent)
        shown = reply.json()
        own = {one.pop(field, None) for one in (shown, shown.get("error", {})) for field in EACH_ITS_OWN}
        location = reply.headers.get("location", "")
        assert location.removeprefix("/api/messages/") in own | {""}
        given = headers.get("X-Request-Id")
        kept = {
            name: value for name, value in reply.headers.items() if name not in ("x-request-id", "location")
        }
        kept |= {"location": location[:14], "given": reply.headers["x-request-id"] == given}
        kept.pop("date", None)
        kept["content-length"] = str(int(kept["content-length"]) == len(reply.content))  # moments differ
        left = [entry for entry in await self._entries() if entry not in before]
        return reply.status_code, kept, shown, [self._anonymous(entry) for entry in left]

    async def published(self, batch: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return what becomes of the messages of a batch and what is published, but for what is anew each
        time."""
        before = await self._read()
        reply = await self.http.post(BATCH, content=batch, headers={"Content-Type": "application/json"})
        assert reply.status_code == 200, reply.text
        results = [
            {word: what if word == "error" else None for word, what in one.items()}
            for one in reply.json()["results"]
        ]
        messages = [message for message in await self._read() if message not in before]
        ids = [message["id"] for message in messages]
        assert sorted(ids) == sorted(one["id"] for one in reply.json()["results"] if "id" in one)
        for message in messages:
            message["root_id"] = message["root_id"] == message.pop("id")
            message.pop("created_at")
        return results, messages

    async def _read(self) -> list[dict[str, Any]]:
        async with await open_connection(self._url, name="test") as connection:
            lanes = [(lane, Keys(shard).ingress[lane]) for shard in range(2) for lane in LANES]
            found = [(lane, await connection.send("XRANGE", key, "-", "+")) for lane, key in lanes]
        return [
            json.loads(message)
            for lane, entries in found
            for entry, fields in entries
            for message in IngressEntry(lane, entry.decode(), fields).messages
        ]

    async def _entries(self) -> list[dict[bytes, bytes]]:
        async with async_client_of(self._url) as redis:
            streams = [Keys(shard).ingress[lane] for shard in range(2) for lane in LANES]
            return [fields for stream in streams for _, fields in await redis.xrange(stream)]

    def filled(self, text: bytes) -> bytes:
        fresh = new_id()
        for name, value in (*self._values.items(), ("new", fresh), ("NEW", fresh.upper())):
            text = text.replace(b"{%b}" % name.encode(), value.encode())
        return text

    @staticmethod
    def _anonymous(entry: dict[bytes, bytes]) -> dict[str, Any]:
        message = httpx.Response(200, content=entry[b"m"]).json()
        assert message.pop("id") == message.pop("root_id") or message["reply_to"]
        message.pop("created_at")
        return {"fields": sorted(entry), "message": message}


@asynccontextmanager
async def meeting(gateway: Running, register: Register, url: str) -> AsyncIterator[World]:
    """Make the world; its sender's key and everybody it writes to are known to the gateway already."""
    agents = {name: await register(name) for name in ("to", "from", "disabled", "guarded", "closed")}
    async with calling(gateway) as operator:
        await operator.patch("/api/agents/disabled", json={"status": "disabled"})
        for name, policy in (("guarded", "contacts_only"), ("closed", "closed")):
            await operator.patch(f"/api/agents/{name}", json={"contact_policy": policy})
        made = [
            (await operator.post("/api/agents/from/keys", json=asked)).json()
            for asked in ({"scopes": ["messages:read"]}, {})
        ]
        await operator.post("/api/messages?wait=accepted", json=to())
    values = {"to": agents["to"]["id"], "TO": agents["to"]["id"].upper(), "from": agents["from"]["id"]}
    values |= {"reader": made[0]["api_key"], "revoked": made[1]["api_key"]}
    async with calling(gateway, made[1]["api_key"]) as leaving:
        assert (await leaving.post(QUICK, json=to())).status_code == 202
        assert (await leaving.delete(f"/api/agents/from/keys/{made[1]['id']}")).is_success
    async with calling(gateway, agents["from"]["api_key"]) as http:
        for name in agents:
            await http.post(ORDINARY, json=to(name))
        yield World(http, url, values)


async def test_both_ways_answer_alike_and_publish_alike(
    gateway: Running, register: Register, streams_url: str, taken: list[str]
) -> None:
    async with meeting(gateway, register, streams_url) as world:
        for name, case in CASES.items():
            taken.clear()
            ordinary = await world.ask(ORDINARY, case)
            assert (name, taken) == (name, [])
            if case.quick:
                quick = await until_taken(taken, partial(world.ask, QUICK, case))
            else:
                quick = await world.ask(QUICK, case)
            assert (name, quick) == (name, ordinary)
            assert (name, len(taken)) == (name, int(case.quick))
            assert not case.quick or ordinary[0] == 202


BATCH, ORDINARY_BATCH = "/api/messages/batch", "/api/messages/batch?way=ordinary"
ONLY_SINGLE = ("as large as may be", "too large", "array", "more after it", "no JSON", "nothing")
"""Cases that are other things between brackets."""


async def test_both_ways_take_a_batch_alike(
    gateway: Running, register: Register, streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Exchange] = []
    answer = QuickBatch._answer

    async def noted(self: QuickBatch, exchange: Exchange, call: Any) -> None:
        begun.append(exchange)
        await answer(self, exchange, call)

    monkeypatch.setattr(QuickBatch, "_answer", noted)
    async with meeting(gateway, register, streams_url) as world:
        for name, case in CASES.items():
            if name in ONLY_SINGLE:
                continue
            body = case.body if isinstance(case.body, bytes) else encode(case.body)
            many = Case(case.quick, b"[" + world.filled(body) + b"]", case.headers)
            begun.clear()
            ordinary = await world.ask(ORDINARY_BATCH, many)
            assert (name, begun) == (name, [])
            quick = await world.ask(BATCH, many)
            for reply in (ordinary, quick):
                for result in reply[2].get("results", []):
                    result.pop("id", None)
            assert (name, quick) == (name, ordinary)
            if case.quick:
                await until_taken(begun, partial(world.ask, BATCH, many))


READ_TOGETHER = (
    "by name", "by id", "everything", "by id in capitals", "metadata null", "own name", "another's name",
    "own id", "new id", "scheduled too far", "reply", "to itself", "to nobody", "to one who is disabled",
    "by name", "to one with contacts only", "to one who is closed", "nowhere", "by id", "to itself",
)  # fmt: skip


async def test_what_is_read_together_is_published_as_what_is_read_line_by_line(
    gateway: Running, register: Register, streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: list[object] = []
    take = plain_messages.take

    def noted(*asked: Any) -> plain_messages.Plain | None:
        made = take(*asked)
        plain.append(made)
        return made

    monkeypatch.setattr(plain_messages, "take", noted)
    async with meeting(gateway, register, streams_url) as world:
        await world.published(b"[%b]" % PLAIN)
        lines = [world.filled(encode(CASES[name].body)) for name in READ_TOGETHER]
        plain.clear()
        one_by_one = await world.published(b"\n".join(lines))
        assert plain == []
        assert await world.published(b"[" + b",".join(lines) + b"]") == one_by_one
    assert len([made for made in plain if made is not None]) == 6
    assert {"id", "error"} == {word for result in one_by_one[0] for word in result}


RECORDED = ["by name", "everything", "by capability", "new id", "operator", "request id"]


async def test_both_ways_wait_for_the_record_alike_and_show_what_is_there(
    gateway: Running, register: Register, streams_url: str, taken: list[str], recorder: Recorder
) -> None:
    async with meeting(gateway, register, streams_url) as world:
        for name in RECORDED:
            case, answers = CASES[name], []
            for way in ("/api/messages?timeout_ms=5000", "/api/messages", "/api/messages?wait=recorded"):
                if "timeout" in way:
                    answers.append(await world.ask(way, case))
                else:
                    answers.append(await until_taken(taken, partial(world.ask, way, case)))
                    row = await stored_messages.get(gateway.services.pool, taken[0])
                    assert row is not None
                    assert row.status == answers[-1][2]["status"]
            assert answers[0][0] == 201
            assert answers[0] == answers[1] == answers[2]


async def test_a_reply_shows_what_the_recorder_said_of_the_row_without_reading_it(
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await register("to")
    looked: list[str] = []
    read = stored_messages.get

    async def noted(pool: Pool, message_id: str) -> MessageView | None:
        looked.append(message_id)
        return await read(pool, message_id)

    monkeypatch.setattr(waiting, "LOOK_FIRST_MS", 5_000)
    monkeypatch.setattr(stored_messages, "get", noted)
    for way in ("/api/messages", "/api/messages?timeout_ms=5000"):
        shown = (await http.post(way, json=to(content={"a": [1, "x"]}, priority=2))).json()
        assert looked == []
        assert (await http.get(f"/api/messages/{shown['id']}")).json() == shown
        looked.clear()
    # Under an id of the sender's choice another message may be on record.
    chosen = (await http.post("/api/messages", json=to(id=new_id()))).json()
    assert looked == [chosen["id"]]


async def test_both_ways_answer_alike_when_publishing_fails(
    gateway: Running, register: Register, streams_url: str, monkeypatch: pytest.MonkeyPatch, taken: list[str]
) -> None:
    async with meeting(gateway, register, streams_url) as world:
        monkeypatch.setattr(gateway.services, "joined", False)
        for given, status in ((None, 503), (StreamsFull("full"), 503), (ZeroDivisionError(), 500)):
            if given is not None:
                monkeypatch.setattr(gateway.services, "joined", True)
                monkeypatch.setattr(gateway.services.publisher, "begin_written", _failing(given))
            case = Case(True, to(), {"X-Request-Id": "mine-2"})
            ordinary = await world.ask(ORDINARY, case)
            assert await until_taken(taken, partial(world.ask, QUICK, case)) == ordinary
            assert (ordinary[0], ordinary[1].get("retry-after")) == (status, "2" if status == 503 else None)


def _failing(error: Exception) -> Any:
    def begin(*_: Any, **__: Any) -> asyncio.Future[None]:
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stored.set_exception(error)
        return stored

    return begin


async def test_both_ways_say_that_a_message_is_only_buffered(
    gateway: Running, register: Register, streams_url: str, monkeypatch: pytest.MonkeyPatch, taken: list[str]
) -> None:
    async with meeting(gateway, register, streams_url) as world:
        monkeypatch.setattr(gateway.services, "durability", "buffered")
        case = CASES["by name"]
        quick = await until_taken(taken, partial(world.ask, QUICK, case))
        assert await world.ask(ORDINARY, case) == quick
    assert quick[2]["durability"] == "buffered"


async def test_both_ways_are_counted_and_are_signs_of_life(
    gateway: Running, register: Register, taken: list[str]
) -> None:
    agent = await register("from")
    counted = metrics.HTTP_REQUESTS.child(operation="sendMessage", status="2xx")
    published = metrics.PUBLISHED.child(door="http")
    async with calling(gateway, agent["api_key"]) as http:

        async def send(way: str) -> None:
            await gateway.services.signs_of_life.write_down()
            before = counted.value, published.value
            assert (await http.post(way, json=to("from"))).status_code == 202
            assert (counted.value, published.value) == (before[0] + 1, before[1] + 1)
            assert gateway.services.signs_of_life._heard == {agent["id"]}

        await send(ORDINARY)
        await until_taken(taken, lambda: send(QUICK))


async def test_a_key_that_was_used_the_short_way_ends_at_once_when_it_is_revoked(
    gateway: Running, http: httpx.AsyncClient, register: Register, taken: list[str]
) -> None:
    await register("from")
    made = (await http.post("/api/agents/from/keys", json={})).json()
    async with calling(gateway, made["api_key"]) as agent:
        await until_taken(taken, lambda: agent.post(QUICK, json=to("from")))
        await http.delete(f"/api/agents/from/keys/{made['id']}")
        assert (await agent.post(QUICK, json=to("from"))).status_code == 401


async def test_a_recipient_that_closes_is_heard_of_the_short_way_too(
    gateway: Running, http: httpx.AsyncClient, register: Register, taken: list[str]
) -> None:
    agent = await register("from")
    await register("to")
    async with calling(gateway, agent["api_key"]) as sender:
        await until_taken(taken, lambda: sender.post(QUICK, json=to()))
        await http.patch("/api/agents/to", json={"contact_policy": "closed"})
        assert (await sender.post(QUICK, json=to())).status_code == 403


async def test_what_is_too_fast_for_the_short_way_is_refused_and_counted_once(
    streams_url: str, database_url: str, taken: list[str]
) -> None:
    refused = metrics.REFUSED.child(reason="key_rate")
    async with held(settings_for(streams_url, database_url, key_rate_per_s=5)) as gateway:
        await until_ready(gateway)
        async with calling(gateway) as http:
            own = (await http.post("/api/agents", json={"name": "to"})).json()
        async with calling(gateway, own["api_key"]) as sender:
            await until_taken(taken, lambda: sender.post(QUICK, json=to()))
            before = refused.value
            for _ in range(TRIES):
                reply = await sender.post(QUICK, json=to())
                if reply.status_code != 202:
                    break
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limited")
    assert refused.value == before + 1


async def test_without_authentication_nothing_goes_the_short_way(
    streams_url: str, database_url: str, taken: list[str]
) -> None:
    settings = settings_for(streams_url, database_url, require_authentication=False)
    async with held(settings) as gateway:
        await until_ready(gateway)
        async with calling(gateway) as http:
            await http.post("/api/agents", json={"name": "to"})
            for _ in range(2):
                assert (await http.post(QUICK, json=to())).status_code == 202
            foreign = await http.post(QUICK, json=to(), headers={"Origin": "https://example.com"})
    assert (foreign.status_code, taken) == (403, [])


def parts_of(key: str, *, chunked: bool = False) -> tuple[bytes, bytes]:
    """Return head and body of a request."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(PLAIN)}"
    head = f"POST {QUICK} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{framing}\r\n\r\n"
    return head.encode(), b"%x\r\n%b\r\n0\r\n\r\n" % (len(PLAIN), PLAIN) if chunked else PLAIN


@pytest.mark.parametrize("form", ["whole", "chunked", "in two parts", "two at once", "dripping"])
async def test_a_body_may_come_in_any_form(
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    taken: list[str],
    form: str,
) -> None:
    await register("to")
    await until_taken(taken, lambda: http.post(QUICK, json=to()))
    head, body = parts_of(OPERATOR_KEY, chunked=form == "chunked")
    reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
    pieces = {
        "in two parts": [head, body],
        "two at once": [head + body + head + body],
        "dripping": [head, *(bytes((byte,)) for byte in body)],
    }.get(form, [head + body])
    async with asyncio.timeout(10):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        ids = []
        for _ in range(2 if form == "two at once" else 1):
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 202 ")
            length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            ids.append(httpx.Response(200, content=await reader.readexactly(length)).json()["id"])
    writer.close()
    assert len(set(ids)) == len(ids)


async def test_a_body_that_does_not_come_is_given_up(
    http: httpx.AsyncClient, register: Register, monkeypatch: pytest.MonkeyPatch, taken: list[str]
) -> None:
    await register("to")
    await until_taken(taken, lambda: http.post(QUICK, json=to()))
    monkeypatch.setattr(limits, "BODY_RECEIVE_MS_MAX", 50)
    head, body = parts_of(OPERATOR_KEY)
    reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
    writer.write(head + body[:-1])
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()
