"""Dead letters over HTTP: listed, replayed, and what is wrong with asking."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from gateway_rig import Register, calling
from msgspec import Raw

from broker.core.fold import fold
from broker.gateway.serve import POOL_CONNECTIONS, Running
from broker.store import dead_letters, outbox, partitions, record
from broker.store.dead_letters import DeadLetterFilter
from broker.store.messages import get
from broker.streams.connection import Connection, open_connection
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys
from broker.streams.lanes import IngressEntry
from schema.codec import decode_envelope, encode
from schema.errors import StreamsUnavailable
from schema.ids import new_id
from schema.ledger import Event, EventKind
from schema.limits import REPLAY_MESSAGES_MAX
from schema.message import LANES, Envelope, Status
from schema.times import to_ms
from workers.keeping.outbox import OutboxRelay

URL = "/api/dead-letters"


class Graveyard:
    """Writes dead letters as the recorder does, and reads what a replay published."""

    def __init__(self, gateway: Running, connection: Connection) -> None:
        self._pool = gateway.services.pool
        self._connection = connection
        self._made = 0

    async def bury(
        self,
        to: str | None,
        *,
        sender: str | None = None,
        status: Status = Status.FAILED,
        reason: str | None = "exhausted",
        route: bytes | None = None,
        age: timedelta = timedelta(minutes=5),
        **more: Any,
    ) -> str:
        """Record a message that ended; each is a millisecond younger than the one before."""
        self._made += 1
        made = datetime.now(UTC) - age + timedelta(milliseconds=self._made)
        await partitions.ensure_day(self._pool, made.date())
        message = Envelope(id=new_id(), from_agent_id=sender, to_agent_id=to, created_at=made, **more)
        event = Event(
            kind=EventKind.SETTLED,
            id=message.id,
            at_ms=to_ms(made) + 5,
            message=Raw(encode(message)),
            to=to,
            status=status,
            reason=reason,
        )
        if route is not None:
            event.route = Raw(route)
        await record.write(self._pool, fold([event]))
        return message.id

    async def published(self) -> list[Envelope]:
        found = []
        for keys in (Keys(0), Keys(1)):
            for lane in LANES:
                for entry_id, fields in await self._connection.send("XRANGE", keys.ingress[lane], "-", "+"):
                    found += map(decode_envelope, IngressEntry(lane, entry_id.decode(), fields).messages)
        return found

    async def row(self, message_id: str) -> asyncpg.Record:
        row = await self._pool.fetch_row("SELECT * FROM agent_messages WHERE id = $1", message_id)
        assert row is not None
        return row


@pytest.fixture
async def graves(gateway: Running, streams_url: str) -> AsyncIterator[Graveyard]:
    async with await open_connection(streams_url, name="test") as connection:
        yield Graveyard(gateway, connection)


async def listed(http: httpx.AsyncClient, **query: Any) -> list[str]:
    """The ids of all pages."""
    found: list[str] = []
    url, parameters = URL, query
    while url:
        reply = await http.get(url, params=parameters)
        assert reply.status_code == 200, reply.text
        found += [letter["id"] for letter in reply.json()]
        url, parameters = reply.links["next"]["url"] if "next" in reply.links else "", None
    return found


async def replayed(http: httpx.AsyncClient, **body: Any) -> Any:
    reply = await http.post(f"{URL}/replay", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


# --- listing ----------------------------------------------------------------------------------------


async def test_they_are_listed_newest_first_by_either_side_and_reason(
    gateway: Running, http: httpx.AsyncClient, register: Register, graves: Graveyard
) -> None:
    a, b, c = [await register(name) for name in "abc"]
    old = await graves.bury(a["id"], age=timedelta(days=2))
    gone = await graves.bury(a["id"], sender=b["id"], reason="gone")
    expired = await graves.bury(b["id"], sender=a["id"], status=Status.EXPIRED, reason="expired")
    to_self = await graves.bury(a["id"], sender=a["id"])
    nobody = await graves.bury(None)
    for status in (Status.DELIVERED, Status.CANCELLED, Status.PENDING):
        await graves.bury(a["id"], status=status)
    assert await listed(http) == [nobody, to_self, expired, gone, old]
    assert await listed(http, limit=2) == [nobody, to_self, expired, gone, old]
    assert await listed(http, agent_id="a", limit=1) == [to_self, expired, gone, old]
    assert await listed(http, agent_id=b["id"]) == [expired, gone]
    assert await listed(http, reason="gone") == [gone]
    assert await listed(http, agent_id="a", reason="expired") == [expired]
    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    assert await listed(http, since=since, limit=1) == [nobody, to_self, expired, gone]
    assert await listed(http, agent_id="c") == []
    for agent, found in ((a, [to_self, expired, gone, old]), (b, [expired, gone]), (c, [])):
        async with calling(gateway, agent["api_key"]) as own:
            assert await listed(own) == found
            assert await listed(own, agent_id=agent["name"]) == found
    letter = (await http.get(URL, params={"reason": "gone"})).json()[0]
    assert (letter["status"], letter["status_reason"], letter["round"]) == ("failed", "gone", 0)


async def test_what_is_wrong_with_a_list_is_told(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    a, _ = await register("a"), await register("b")
    for query, status, field in (
        ({"limit": 0}, 422, "limit"),
        ({"limit": "many"}, 422, "limit"),
        ({"since": "yesterday"}, 422, "since"),
        ({"since": "0001-01-01T00:00:00+14:00"}, 422, "since"),
        ({"cursor": "!"}, 422, "cursor"),
        ({"agent_id": "nobody"}, 404, None),
    ):
        reply = await http.get(URL, params=query)
        assert (reply.status_code, reply.json()["error"].get("field")) == (status, field), reply.text
    async with calling(gateway, a["api_key"]) as own:
        assert (await own.get(URL, params={"agent_id": "b"})).json()["error"]["code"] == "agent_mismatch"
    async with calling(gateway, None) as stranger:
        assert (await stranger.get(URL)).status_code == 401


async def test_the_list_reads_only_the_index_and_days_it_needs(
    gateway: Running, graves: Graveyard, register: Register
) -> None:
    agent = await register("a")
    for days in range(4):
        for _ in range(20):
            await graves.bury(agent["id"], age=timedelta(days=days, minutes=1))
    pool = gateway.services.pool
    since = datetime.now(UTC) - timedelta(days=1, hours=12)
    for statement, whose in ((dead_letters._ALL, None), (dead_letters._OF_AGENT, agent["id"])):
        async with pool.transaction() as connection:
            await connection.execute("SET LOCAL enable_seqscan = off")
            start = dead_letters._START
            rows = await connection.fetch(
                f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {statement}",
                *(whose, since, None, start.created_at, start.id, 10, None, None, None),
            )
        plan = "\n".join(row[0] for row in rows)
        assert "Seq Scan" not in plan, plan
        assert "created_at_id_idx" in plan, plan
        # Days before `since` are not even looked at.
        assert min(re.findall(r"_p(\d{8})_", plan)) == f"{since:%Y%m%d}", plan


# --- replaying --------------------------------------------------------------------------------------


async def test_a_replay_publishes_the_next_round_and_the_row_waits_again(
    http: httpx.AsyncClient, register: Register, graves: Graveyard
) -> None:
    a, b = await register("a"), await register("b")
    past = datetime.now(UTC) - timedelta(minutes=1)
    dead = await graves.bury(
        a["id"],
        sender=b["id"],
        status=Status.EXPIRED,
        reason="expired",
        expires_at=past,
        content=Raw(b'{"deep": [1, null, "\xc3\xbc"]}'),
        priority=2,
        conversation_id="c",
    )
    assert await replayed(http, ids=[dead.upper()]) == {
        **{"replayed": 1, "skipped": 0, "skipped_ids": [], "skipped_reasons": {}},
        **{"more": False, "next_cursor": None, "matching": None},
    }
    (again,) = await graves.published()
    row = await graves.row(dead)
    assert (again.id, again.round, again.to_agent_id, again.from_agent_id) == (dead, 1, a["id"], b["id"])
    assert (again.created_at, again.expires_at) == (row["created_at"], None)
    assert (row["status"], row["round"], row["status_reason"], row["expires_at"]) == (
        "pending",
        1,
        None,
        None,
    )
    assert await listed(http) == []
    assert (await replayed(http, ids=[dead]))["skipped_ids"] == [dead]
    assert len(await graves.published()) == 1


async def test_what_was_routed_by_capability_is_routed_anew(
    http: httpx.AsyncClient, register: Register, graves: Graveyard
) -> None:
    a = await register("a")
    chosen = await graves.bury(a["id"], requirements=["scrape"], route=b'{"rule": "only_one"}')
    parked = await graves.bury(None, requirements=["honda"])
    of_content = await graves.bury(None, content=Raw(b'{"requirements": ["x"]}'))
    nowhere = await graves.bury(None, reason="unknown_recipient")
    told = await replayed(http, ids=[chosen, parked, of_content, nowhere])
    assert (told["replayed"], told["skipped_ids"]) == (3, [nowhere])
    again = {one.id: one for one in await graves.published()}
    assert {one.to_agent_id for one in again.values()} == {None}
    assert again[chosen].requirements == ["scrape"]
    assert again[parked].requirements == ["honda"]
    assert again[of_content].requirements == ["x"]
    row = await graves.row(chosen)
    assert (row["to_agent_id"], row["status"]) == (None, "pending")


async def test_a_filter_replays_in_bounded_calls(
    http: httpx.AsyncClient, register: Register, graves: Graveyard
) -> None:
    await register("a")
    b = await register("b")
    dead = [await graves.bury(b["id"], reason="gone") for _ in range(5)]
    other = await graves.bury(b["id"], reason="exhausted")
    first = await replayed(http, reason="gone", limit=2)
    assert (first["replayed"], first["more"], first["matching"]) == (2, True, 5)
    second = await replayed(http, reason="gone", limit=2, cursor=first["next_cursor"])
    assert (second["replayed"], second["more"], second["matching"]) == (2, True, None)
    third = await replayed(http, agent_id="b", reason="gone", since="2020-01-01T00:00:00Z")
    assert (third["replayed"], third["more"], third["next_cursor"]) == (1, False, None)
    assert sorted(one.id for one in await graves.published()) == sorted(dead)
    assert await listed(http) == [other]
    assert (await replayed(http, agent_id="a"))["replayed"] == 0


async def test_an_agent_replays_its_own_and_nothing_else(
    gateway: Running, http: httpx.AsyncClient, register: Register, graves: Graveyard
) -> None:
    a, b, c = [await register(name) for name in "abc"]
    received = await graves.bury(a["id"], sender=b["id"])
    sent = await graves.bury(b["id"], sender=a["id"])
    foreign = await graves.bury(b["id"], sender=c["id"])
    async with calling(gateway, a["api_key"]) as own:
        told = await replayed(own, ids=[received, sent, foreign])
        assert (told["replayed"], told["skipped_ids"]) == (2, [foreign])
        assert (await own.post(f"{URL}/replay", json={"agent_id": "b"})).status_code == 403
        assert (await replayed(own, since="2020-01-01T00:00:00Z"))["replayed"] == 0
    assert await listed(http) == [foreign]


async def test_two_replays_at_once_publish_each_message_once(
    http: httpx.AsyncClient, register: Register, graves: Graveyard
) -> None:
    a = await register("a")
    dead = [await graves.bury(a["id"]) for _ in range(20)]
    told = await asyncio.gather(*(replayed(http, ids=dead) for _ in range(4)))
    assert sum(one["replayed"] for one in told) == 20
    published = await graves.published()
    assert sorted(one.id for one in published) == sorted(dead)


async def test_without_redis_they_are_on_their_way_all_the_same(
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    graves: Graveyard,
    monkeypatch: pytest.MonkeyPatch,
    streams_url: str,
) -> None:
    a = await register("a")
    dead = await graves.bury(a["id"])

    async def fail(*_: Any, **__: Any) -> None:
        raise StreamsUnavailable("away")

    pool = gateway.services.pool
    monkeypatch.setattr(gateway.services, "publish", fail)
    assert (await replayed(http, ids=[dead]))["replayed"] == 1
    assert await graves.published() == []
    assert (await graves.row(dead))["status"] == "pending"
    await pool.execute("UPDATE outbox SET due_at = now(), added_at = now() - interval '1 hour'")
    publisher = Publisher(streams_url, shards=2, name="relay")
    relay = OutboxRelay(pool, publisher, dedup_window_ms=120_000)
    assert await relay.relay() == 1
    await publisher.close()
    # Though its row has been there for long, this round has not been published before.
    assert [(one.id, one.round) for one in await graves.published()] == [(dead, 1)]


async def test_a_round_that_was_published_and_recorded_is_not_published_an_hour_later(
    gateway: Running, http: httpx.AsyncClient, register: Register, graves: Graveyard
) -> None:
    a = await register("a")
    dead, waits = await graves.bury(a["id"]), await graves.bury(a["id"])
    await replayed(http, ids=[dead, waits])
    again = {one.id: one for one in await graves.published()}
    pool = gateway.services.pool
    routed = Event(
        kind=EventKind.ROUTED,
        id=dead,
        at_ms=to_ms(datetime.now(UTC)),
        message=Raw(encode(again[dead])),
        to=a["id"],
        mailbox_entry="1-0",
    )
    await record.write(pool, fold([routed]))
    assert await outbox.recorded(pool, [again[dead], again[waits]]) == {dead}


async def test_filters_are_about_either_side_type_and_time(
    gateway: Running, http: httpx.AsyncClient, register: Register, graves: Graveyard
) -> None:
    a, b = [await register(name) for name in "ab"]
    task = await graves.bury(a["id"], sender=b["id"], message_type="task")
    back = await graves.bury(b["id"], sender=a["id"], message_type="result")
    other = await graves.bury(a["id"], message_type="task", age=timedelta(days=1))
    for query, found in (
        ({"to_agent_id": "a"}, [task, other]),
        ({"from_agent_id": "a"}, [back]),
        ({"from_agent_id": "b", "to_agent_id": "a"}, [task]),
        ({"message_type": "task"}, [task, other]),
        ({"agent_id": "b", "message_type": "task"}, [task]),
        ({"until": (datetime.now(UTC) - timedelta(hours=1)).isoformat()}, [other]),
        ({"agent_id": "b", "to_agent_id": "a"}, [task]),
    ):
        assert await listed(http, limit=1, **query) == found, query
        count = await dead_letters.count(
            gateway.services.pool,
            DeadLetterFilter(**{name: _value(value, a, b) for name, value in query.items()}),
            at_most=10,
        )
        assert count == len(found), query
    async with calling(gateway, b["api_key"]) as own:
        assert await listed(own, to_agent_id="a") == [task]
        told = await replayed(own, to_agent_id="a", message_type="task")
        assert (told["replayed"], told["matching"]) == (1, 1)
    assert await listed(http) == [back, other]


def _value(value: str, a: dict[str, Any], b: dict[str, Any]) -> Any:
    if value in ("a", "b"):
        return {"a": a, "b": b}[value]["id"]
    return datetime.fromisoformat(value) if value.startswith("2") else value


async def test_what_is_skipped_says_why(
    http: httpx.AsyncClient, register: Register, graves: Graveyard
) -> None:
    a = await register("a")
    unknown = new_id()
    nowhere = await graves.bury(None)
    old = await graves.bury(a["id"], age=timedelta(days=29, hours=1))
    rather_old = await graves.bury(a["id"], age=timedelta(days=28, hours=20))
    told = await replayed(http, ids=[unknown, nowhere, old, rather_old])
    assert told["replayed"] == 1
    assert told["skipped_reasons"] == {
        unknown: "not_a_dead_letter",
        nowhere: "no_destination",
        old: "too_old",
    }


async def test_what_redis_lost_is_ended_by_an_operator_and_sent_again(
    gateway: Running, http: httpx.AsyncClient, register: Register, graves: Graveyard
) -> None:
    """The way of the runbook, where Redis was emptied: on record they wait, and nothing else knows them."""
    a, b = await register("a"), await register("b")
    made = datetime.now(UTC)
    await partitions.ensure_day(gateway.services.pool, made.date())
    lost = Envelope(id=new_id(), from_agent_id=b["id"], to_agent_id=a["id"], created_at=made)
    event = Event(
        kind=EventKind.ROUTED,
        id=lost.id,
        at_ms=to_ms(made),
        message=Raw(encode(lost)),
        to=a["id"],
        mailbox_entry="1-0",
    )
    await record.write(gateway.services.pool, fold([event]))
    change = {"status": "failed", "reason": "lost with Redis"}
    for _ in range(2):
        reply = await http.put(f"/api/messages/{lost.id}/status", json=change)
        assert reply.status_code == 200, reply.text
    assert await listed(http, reason="lost with Redis") == [lost.id]
    assert (await replayed(http, reason="lost with Redis"))["replayed"] == 1
    assert [(one.id, one.round) for one in await graves.published() if one.id == lost.id] == [(lost.id, 1)]
    assert (await graves.row(lost.id))["status"] == "pending"


async def test_as_many_replays_at_once_as_there_are_connections_all_hear_what_their_recipients_take(
    gateway: Running, register: Register, graves: Graveyard
) -> None:
    sender = await register("sender")
    dead = []
    for number in range(2 * POOL_CONNECTIONS):
        guarded = await register(f"guarded-{number}", contact_policy="contacts_only")
        dead.append(await graves.bury(guarded["id"], sender=sender["id"]))
    async with calling(gateway, sender["api_key"]) as own:
        told = await asyncio.gather(*(replayed(own, ids=[one]) for one in dead))
    assert [one["skipped_reasons"] for one in told] == [{one: "not_taken"} for one in dead]


async def test_events_of_the_round_before_do_not_end_a_replayed_message(
    gateway: Running, http: httpx.AsyncClient, register: Register, graves: Graveyard
) -> None:
    a = await register("a")
    dead = await graves.bury(a["id"])
    await replayed(http, ids=[dead])
    pool = gateway.services.pool
    late = Event(kind=EventKind.SETTLED, id=dead, at_ms=1, status=Status.FAILED, reason="exhausted")
    await record.write(pool, fold([late]))
    view = await get(pool, dead)
    assert view is not None
    assert view.status == "pending"
    late.round = 1
    await record.write(pool, fold([late]))
    assert await listed(http) == [dead]
    assert (await http.get(URL)).json()[0]["round"] == 1


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"ids"}),
        ({"limit": 5}, {"ids"}),
        ({"ids": []}, {"ids"}),
        ({"ids": ["x"], "limit": 0}, {"ids", "ids[0]", "limit"}),
        ({"ids": ["6f0a7d1e-2f3c-4b5a-8d6e-7f8091a2b3c4"], "reason": "gone"}, {"ids"}),
        ({"ids": ["6f0a7d1e-2f3c-4b5a-8d6e-7f8091a2b3c4"] * (REPLAY_MESSAGES_MAX + 1)}, {"ids"}),
        ({"reason": "gone", "cursor": "!"}, {"cursor"}),
        ({"reason": 5, "since": "x"}, {"reason", "since", "ids"}),
    ],
    ids=range(8),
)
async def test_what_is_wrong_with_a_replay_is_told_at_once(
    http: httpx.AsyncClient, body: dict[str, Any], fields: set[str]
) -> None:
    error = (await http.post(f"{URL}/replay", json=body)).json()["error"]
    assert error["code"] == "invalid"
    found = {fault["field"] for fault in error.get("details", [])} | {error["field"]}
    assert found == fields, error
