"""Comings and goings as anybody hears them who listens on the channel of presence."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import redis.asyncio
from keeper_rig import StartKeeper, agent_ids, hear, server_ms, until

from broker.store.pool import Pool
from broker.streams.connection import Connection, open_connection
from broker.streams.keys import PRESENCE_CHANGES, Keys
from broker.telemetry import metrics
from schema.errors import StreamsUnavailable
from schema.ids import shard_of
from schema.times import from_ms, to_ms
from workers.keeping import comings as comings_module
from workers.keeping.board import Board
from workers.keeping.comings import Comings
from workers.keeping.heartbeats import Heartbeats
from workers.keeping.presence import PresenceFollower
from workers.keeping.silence import Silence

KEYS = Keys(0)
ONLINE_MS, SILENT_MS = 60_000, 300_000
NOW_MS = 1_800_000_000_000
END = "end of the test's words"

Change = tuple[str, str, int]


class Listener:
    """What is said on the channel."""

    def __init__(self, url: str) -> None:
        # What is published at any node of a cluster is heard at all.
        self._redis = redis.asyncio.Redis.from_url(url)
        self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)

    async def start(self) -> None:
        await self._pubsub.subscribe(PRESENCE_CHANGES)
        await self._pubsub.get_message(timeout=5)

    async def words(self) -> list[list[dict[str, Any]]]:
        """Return everything said until now: what we say ourselves comes after it."""
        await self._redis.publish(PRESENCE_CHANGES, json.dumps(END))
        found = []
        async with asyncio.timeout(10):
            while True:
                message = await self._pubsub.get_message(timeout=1)
                if message is None:
                    continue
                word = json.loads(message["data"])
                if word == END:
                    return found
                found.append(word)

    async def told(self) -> list[Change]:
        return [
            (change["agent_id"], change["state"], to_ms(datetime.fromisoformat(change["at"])))
            for word in await self.words()
            for change in word
        ]

    async def close(self) -> None:
        await self._pubsub.aclose()
        await self._redis.aclose()


@pytest.fixture
async def listener(streams_url: str) -> AsyncIterator[Listener]:
    one = Listener(streams_url)
    await one.start()
    yield one
    await one.close()


class Rig:
    """A follower at a time of the test's choosing; `restart` is another keeper."""

    def __init__(self, connection: Connection, pool: Pool) -> None:
        self.now_ms = NOW_MS
        self.connection = connection
        self._pool = pool
        self.restart()

    def restart(self) -> None:
        self.follower = PresenceFollower(
            KEYS,
            Heartbeats(self._pool, shard=0, now_ms=lambda: self.now_ms),
            Silence(KEYS.presence, shard=0, silent_after_ms=SILENT_MS),
            Comings(shard=0, online_ms=ONLINE_MS, silent_after_ms=SILENT_MS),
            online_ms=ONLINE_MS,
            now_ms=lambda: self.now_ms,
            board=Board(),
        )

    async def look(self, *, after_ms: int = 0) -> None:
        self.now_ms += after_ms
        await self.follower.look(self.connection)

    async def hear(self, *agents: str, ago_ms: int = 0) -> None:
        await hear(self.connection, 0, dict.fromkeys(agents, self.now_ms - ago_ms))


@pytest.fixture
def rig(connection: Connection, pool: Pool) -> Rig:
    return Rig(connection, pool)


async def test_an_agent_comes_goes_away_and_is_gone_each_told_once(rig: Rig, listener: Listener) -> None:
    [agent] = agent_ids(1)
    counted = metrics.PRESENCE_CHANGES.child(state="away")
    before = counted.value
    await rig.look()
    await rig.hear(agent)
    for after_ms in (0, 2_000, ONLINE_MS, 2_000, SILENT_MS, 2_000):
        await rig.look(after_ms=after_ms)

    assert await listener.told() == [
        (agent, "online", NOW_MS),
        (agent, "away", NOW_MS + ONLINE_MS),
        (agent, "gone", NOW_MS + SILENT_MS),
    ]
    assert counted.value - before == 1


async def test_a_restart_is_no_news_and_what_changes_after_it_is(rig: Rig, listener: Listener) -> None:
    [here, away, gone, never] = agent_ids(4)
    await rig.hear(here)
    await rig.hear(away, ago_ms=ONLINE_MS + 1)
    await rig.hear(gone, ago_ms=SILENT_MS + 1)
    await rig.look()
    rig.restart()
    await rig.look(after_ms=1_000)
    assert await listener.told() == []

    await rig.hear(here, away, gone, never)
    await rig.look(after_ms=2_000)
    assert sorted(await listener.told()) == sorted(
        (who, "online", NOW_MS + 1_000) for who in (away, gone, never)
    )


async def test_a_flap_between_two_looks_is_told_in_full(rig: Rig, listener: Listener) -> None:
    [agent] = agent_ids(1)
    await rig.look()
    await rig.hear(agent)
    await rig.look()
    await rig.look(after_ms=ONLINE_MS - 1)
    rig.now_ms += 2_000
    await rig.hear(agent, ago_ms=500)
    await rig.look()
    await rig.look(after_ms=2_000)

    assert await listener.told() == [
        (agent, "online", NOW_MS),
        (agent, "away", NOW_MS + ONLINE_MS),
        (agent, "online", NOW_MS + ONLINE_MS + 1_499),
    ]


async def test_many_changes_come_in_words_of_a_bounded_size(
    rig: Rig, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comings_module, "PRESENCE_CHANGES_PER_WORD_MAX", 3)
    agents = agent_ids(7)
    await rig.look()
    await rig.hear(*agents)
    await rig.look()

    words = await listener.words()
    assert [len(word) for word in words] == [3, 3, 1]
    assert sorted(change["agent_id"] for word in words for change in word) == sorted(agents)
    assert words[0][0]["at"] == from_ms(NOW_MS).isoformat().replace("+00:00", "Z")


async def test_what_could_not_be_told_is_told_when_redis_is_back(
    rig: Rig, listener: Listener, streams_url: str
) -> None:
    [agent] = agent_ids(1)
    await rig.look()
    await rig.hear(agent)
    await rig.look()
    rig.now_ms += ONLINE_MS
    comings, broken = rig.follower._comings, await open_connection(streams_url, name="broken")
    await broken.close()
    with pytest.raises(StreamsUnavailable):
        await comings.tell(broken, now_ms=rig.now_ms)
    await rig.look()

    assert [state for _, state, _ in await listener.told()] == ["online", "away"]


async def test_a_keeper_process_tells_of_an_agent_that_comes_and_goes(
    streams_url: str,
    database_url: str,
    connection: Connection,
    listener: Listener,
    start_keeper: StartKeeper,
) -> None:
    # A state that ends before its keeper has looked is not told of, and a new owner tells no news: time
    # enough for a machine that stands still.
    online_ms, silent_ms = 6_000, 12_000
    keeper = start_keeper(
        streams_url,
        database_url,
        presence_online_ms=online_ms,
        silent_after_ms=silent_ms,
        lease_ms=30_000,
    )

    async def established() -> bool:
        return len(keeper.events("presence.established")) == 2

    await until(established, "both shards' presence")
    [agent] = agent_ids(1)
    at_ms = await server_ms(connection)
    await hear(connection, shard_of(agent, 2), {agent: at_ms})
    heard: list[Change] = []

    async def gone() -> bool:
        heard.extend(await listener.told())
        return len(heard) >= 3

    await until(gone, "all three changes")
    assert heard == [
        (agent, "online", at_ms),
        (agent, "away", at_ms + online_ms),
        (agent, "gone", at_ms + silent_ms),
    ]
