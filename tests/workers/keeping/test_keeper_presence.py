"""Signs of life: read in pages, stored, told of when they end and begin again."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keeper_rig import add_agents, agent_ids, hear

from broker.store.agents import fetch
from broker.store.pool import Pool, open_pool
from broker.streams.connection import Connection
from broker.streams.keys import Keys
from broker.telemetry import logs, metrics
from schema.errors import StoreUnavailable
from schema.ids import new_id
from schema.limits import HEARTBEAT_BEHIND_MS_MAX, HEARTBEAT_STORED_EVERY_MS, PRESENCE_KEPT_MS
from workers.keeping import heartbeats as heartbeats_module
from workers.keeping import signs
from workers.keeping import silence as silence_module
from workers.keeping.board import Board
from workers.keeping.comings import Comings
from workers.keeping.heartbeats import Heartbeats
from workers.keeping.presence import DROP_MS, OVERLAP_MS, PresenceFollower
from workers.keeping.signs import agents_of, pages
from workers.keeping.silence import Silence

KEYS = Keys(0)
SILENT_AFTER_MS = 300_000
ONLINE_MS = 60_000
NOW_MS = 1_800_000_000_000


class Rig:
    """A follower at a time of the test's choosing."""

    def __init__(self, connection: Connection, pool: Pool) -> None:
        self.now_ms = NOW_MS
        self.heartbeats = Heartbeats(pool, shard=0, now_ms=lambda: self.now_ms)
        self.board = Board()
        self.follower = PresenceFollower(
            KEYS,
            self.heartbeats,
            Silence(KEYS.presence, shard=0, silent_after_ms=SILENT_AFTER_MS),
            Comings(shard=0, online_ms=ONLINE_MS, silent_after_ms=SILENT_AFTER_MS),
            online_ms=ONLINE_MS,
            now_ms=lambda: self.now_ms,
            board=self.board,
        )
        self._connection = connection

    async def look(self, *, after_ms: int = 0) -> None:
        self.now_ms += after_ms
        await self.follower.look(self._connection)

    async def hear(self, *agent_ids: str, ago_ms: int = 0) -> None:
        await hear(self._connection, 0, dict.fromkeys(agent_ids, self.now_ms - ago_ms))


@pytest.fixture
def rig(connection: Connection, pool: Pool) -> Rig:
    return Rig(connection, pool)


class Told:
    """The events logged since the last question."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def now(self, *names: str) -> list[tuple[str, str]]:
        """Return (event, agent) of the events about agents."""
        events = [json.loads(line) for line in self._capture.readouterr().err.splitlines()]
        return [(event["event"], event["agent"]) for event in events if event["event"] in names]


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    logs.configure(level="info", format="json", process="test")
    return Told(capfd)


async def stored(pool: Pool, *agent_ids: str) -> list[int]:
    found = {agent.id: agent.heartbeat_ms for agent in await fetch(pool, agent_ids)}
    return [found[agent_id] for agent_id in agent_ids]


# --- pages ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moments=st.lists(st.integers(0, 12), max_size=30),
    span=st.tuples(st.integers(0, 13), st.integers(0, 13)),
    aim=st.integers(1, 5),
)
async def test_pages_have_every_agent_of_the_span_once(
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    moments: list[int],
    span: tuple[int, int],
    aim: int,
) -> None:
    monkeypatch.setattr(signs, "PAGE_AGENTS_AIM", aim)
    await connection.send("DEL", KEYS.presence)
    heard = {new_id(): moment for moment in moments}
    if heard:
        await hear(connection, 0, heard)
    from_ms, before_ms = span

    found = pages(connection, KEYS.presence, from_ms=from_ms, before_ms=before_ms)
    read = [agents_of(page) async for page in found]

    wanted = {agent: at_ms for agent, at_ms in heard.items() if from_ms <= at_ms < before_ms}
    assert sorted(pair for page in read for pair in page.items()) == sorted(wanted.items())


async def test_members_that_are_no_ids_are_left_out(connection: Connection) -> None:
    [agent] = agent_ids(1)
    await hear(connection, 0, {agent: 5, "not an id": 5})

    found = pages(connection, KEYS.presence, from_ms=0, before_ms=9)
    assert [agents_of(page) async for page in found] == [{agent: 5}]


# --- into Postgres ----------------------------------------------------------------------------------


async def test_an_agent_that_is_heard_of_all_the_time_is_stored_once_a_minute_by_its_latest_sign(
    rig: Rig, pool: Pool
) -> None:
    once, often, never = agent_ids(3)
    await add_agents(pool, [once, often, never])
    await rig.hear(once, often)
    await rig.look()
    await rig.heartbeats.save()
    assert await stored(pool, once, often, never) == [NOW_MS, NOW_MS, 0]

    step_ms = HEARTBEAT_STORED_EVERY_MS // 30
    for _ in range(29):
        await rig.hear(often, ago_ms=-step_ms)
        await rig.look(after_ms=step_ms)
        await rig.heartbeats.save()
    assert await stored(pool, often) == [NOW_MS]

    # Its minute is over; what is stored is the last that was heard, though nothing is heard any more.
    await rig.look(after_ms=step_ms)
    await rig.heartbeats.save()
    assert await stored(pool, once, often, never) == [NOW_MS, NOW_MS + 29 * step_ms, 0]
    await rig.hear(once)
    await rig.look(after_ms=step_ms)
    await rig.heartbeats.save()
    assert await stored(pool, once) == [NOW_MS + 30 * step_ms]


@pytest.mark.parametrize("every_s", [32, 44, 118])
async def test_the_record_is_behind_by_no_more_than_is_allowed_for(
    rig: Rig, pool: Pool, every_s: int
) -> None:
    [agent] = agent_ids(1)
    await add_agents(pool, [agent])
    last_ms, behind_ms = NOW_MS, 0
    for second in range(0, 400, 2):
        rig.now_ms = NOW_MS + 1_000 * second
        if rig.now_ms >= last_ms + 1_000 * every_s or not second:
            last_ms = rig.now_ms
            rig.heartbeats.add({agent: last_ms})
        await rig.heartbeats.save()
        [stored_ms] = await stored(pool, agent)
        behind_ms = max(behind_ms, last_ms - stored_ms)
    assert behind_ms < HEARTBEAT_BEHIND_MS_MAX
    assert (behind_ms > HEARTBEAT_STORED_EVERY_MS) is (every_s < 60)


async def test_a_sign_that_comes_while_an_earlier_one_is_stored_is_not_lost(
    rig: Rig, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    [agent] = agent_ids(1)
    await add_agents(pool, [agent])
    save = heartbeats_module.agents.save_heartbeats

    async def meanwhile(pool: Pool, heard_ms: Mapping[str, int]) -> None:
        await save(pool, heard_ms)
        rig.heartbeats.add({agent: NOW_MS + 1})

    rig.heartbeats.add({agent: NOW_MS})
    with monkeypatch.context() as patch:
        patch.setattr(heartbeats_module.agents, "save_heartbeats", meanwhile)
        await rig.heartbeats.save()
    assert await stored(pool, agent) == [NOW_MS]

    rig.now_ms += HEARTBEAT_STORED_EVERY_MS
    await rig.heartbeats.save()
    assert await stored(pool, agent) == [NOW_MS + 1]


async def test_a_sign_noted_late_is_stored_all_the_same(rig: Rig, pool: Pool) -> None:
    [early, late] = agent_ids(2)
    await add_agents(pool, [early, late])
    await rig.hear(early)
    await rig.look()
    await rig.hear(late, ago_ms=OVERLAP_MS - 2_000)
    await rig.look(after_ms=2_000)
    await rig.heartbeats.save()

    assert await stored(pool, early, late) == [NOW_MS, NOW_MS - OVERLAP_MS + 2_000]


async def test_a_time_ahead_of_ours_waits_until_it_has_come(rig: Rig, pool: Pool) -> None:
    [ahead] = agent_ids(1)
    await add_agents(pool, [ahead])
    await rig.hear(ahead, ago_ms=-3_000)
    await rig.look()
    await rig.heartbeats.save()
    assert await stored(pool, ahead) == [0]

    await rig.look(after_ms=4_000)
    await rig.heartbeats.save()
    assert await stored(pool, ahead) == [NOW_MS + 3_000]


async def test_agents_that_postgres_does_not_know_hold_up_nothing(rig: Rig, pool: Pool) -> None:
    [known, unknown] = agent_ids(2)
    await add_agents(pool, [known])
    await rig.hear(known, unknown)
    await rig.look()
    await rig.heartbeats.save()

    assert await stored(pool, known) == [NOW_MS]


async def test_what_cannot_be_stored_is_kept_and_stored_later(
    pool: Pool, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats_module, "SAVE_AGENTS_MAX", 2)
    agents = agent_ids(5)
    await add_agents(pool, agents)
    away = await open_pool("postgresql://nobody@127.0.0.1:1/nothing", application_name="test")
    kept = Heartbeats(away, shard=0, now_ms=lambda: NOW_MS)
    kept.add(dict.fromkeys(agents, NOW_MS))
    with pytest.raises(StoreUnavailable):
        await kept.save()
    await away.aclose()

    kept.add({agents[0]: NOW_MS + 1})
    kept._pool = pool
    await kept.save()

    assert await stored(pool, *agents) == [NOW_MS + 1] + [NOW_MS] * 4


# --- silence ----------------------------------------------------------------------------------------

NAMES = ("agent.silent", "agent.back")


async def test_an_agent_that_falls_silent_and_comes_back_is_told_of_once_each(rig: Rig, told: Told) -> None:
    [quiet, lively] = agent_ids(2)
    await rig.hear(quiet, lively)
    await rig.look()
    assert told.now(*NAMES) == []

    await rig.look(after_ms=SILENT_AFTER_MS)
    await rig.hear(lively)
    assert told.now(*NAMES) == []  # exactly at the limit is not beyond it

    await rig.look(after_ms=1)
    assert told.now(*NAMES) == [("agent.silent", quiet)]
    await rig.look(after_ms=10_000)
    assert told.now(*NAMES) == []

    await rig.hear(quiet)
    await rig.look(after_ms=2_000)
    assert told.now(*NAMES) == [("agent.back", quiet)]
    await rig.look(after_ms=2_000)
    assert told.now(*NAMES) == []


async def test_who_was_silent_at_the_start_is_told_of_when_it_comes_back(rig: Rig, told: Told) -> None:
    [quiet] = agent_ids(1)
    await rig.hear(quiet, ago_ms=SILENT_AFTER_MS + 60_000)
    await rig.look()
    assert told.now(*NAMES) == []

    await rig.hear(quiet)
    await rig.look(after_ms=2_000)
    assert told.now(*NAMES) == [("agent.back", quiet)]


async def test_many_that_fall_silent_at_once_are_a_bounded_number_of_events(
    rig: Rig, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence_module, "EVENTS_PER_LOOK_MAX", 3)
    fallen = metrics.KEPT.child(job="offline")
    before = fallen.value
    await rig.hear(*agent_ids(10))
    await rig.look()
    await rig.look(after_ms=SILENT_AFTER_MS + 1)

    assert len(told.now("agent.silent")) == 3
    assert fallen.value - before == 10


async def test_online_counts_the_agents_heard_of_within_the_window(rig: Rig) -> None:
    await rig.hear(*agent_ids(2))
    await rig.hear(*agent_ids(3), ago_ms=ONLINE_MS)
    await rig.hear(*agent_ids(4), ago_ms=ONLINE_MS + 1)
    await rig.look()
    assert metrics.AGENTS_ONLINE.child().now() == 5

    rig.board.show_online(1, 7)
    assert metrics.AGENTS_ONLINE.child().now() == 12
    rig.board.clear(0)
    assert metrics.AGENTS_ONLINE.child().now() == 7


async def test_who_was_silent_for_a_week_is_dropped_and_nobody_else(
    rig: Rig, connection: Connection, pool: Pool
) -> None:
    [old, younger] = agent_ids(2)
    await add_agents(pool, [old])
    await rig.hear(old, ago_ms=PRESENCE_KEPT_MS - DROP_MS + 1)
    await rig.hear(younger, ago_ms=PRESENCE_KEPT_MS - DROP_MS - 1)
    await rig.look()
    await rig.heartbeats.save()
    assert await connection.send("ZCARD", KEYS.presence) == 2

    await rig.look(after_ms=DROP_MS)
    assert await connection.send("ZRANGE", KEYS.presence, 0, -1) == [younger.encode()]
    assert await stored(pool, old) == [NOW_MS - PRESENCE_KEPT_MS + DROP_MS - 1]
