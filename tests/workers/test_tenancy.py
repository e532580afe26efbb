"""Tenancy: a process takes its share of the shards, keeps it, and hands it over in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from cluster import client_of, close

from broker.streams.clock import ServerClock
from broker.streams.keys import Keys
from broker.streams.link import Link
from broker.streams.ownership import Lease
from schema.errors import StreamsUnavailable
from workers.tenancy import Tenancy

LEASE_MS = 30_000
"""Where none is to be lost: a machine may stand still for seconds."""


class Worker:
    """A tenant that notes what it is told; `drain` is how long a graceful stop takes."""

    def __init__(self) -> None:
        self.working: dict[int, Lease] = {}
        self.ended: list[tuple[int, bool]] = []
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self.trouble: list[Exception] = []

    async def start(self, lease: Lease) -> None:
        if self.trouble:
            raise self.trouble.pop()
        assert lease.shard not in self.working
        self.working[lease.shard] = lease

    async def stop(self, lease: Lease, *, gracefully: bool) -> None:
        if gracefully:
            await self.may_stop.wait()
        self.ended.append((lease.shard, gracefully))
        self.working.pop(lease.shard, None)


class Process:
    def __init__(self, url: str, name: str, *, shards: int, lease_ms: int) -> None:
        self.worker = Worker()
        self.link = Link(url, name=name)
        self.preferred: list[int] = []
        self.stopping = asyncio.Event()
        self.tenancy = Tenancy(
            self.link,
            ServerClock(),
            trade="route",
            process=name,
            shards=shards,
            lease_ms=lease_ms,
            tenant=self.worker,
            prefer=lambda: self.preferred,
        )


@asynccontextmanager
async def process(
    url: str, name: str, *, shards: int = 4, lease_ms: int = LEASE_MS
) -> AsyncIterator[Process]:
    it = Process(url, name, shards=shards, lease_ms=lease_ms)
    task = asyncio.ensure_future(it.tenancy.run(it.stopping))
    try:
        yield it
        it.stopping.set()
        async with asyncio.timeout(10):
            await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        await it.link.close()


async def until(true) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # what is waited for happens in another process' Redis
            await asyncio.sleep(0.005)


@pytest.fixture
def raw(any_streams_url):
    client = client_of(any_streams_url)
    yield client
    close(client)


@pytest.mark.parametrize("shards", [1, 2, 4, 7])
async def test_a_process_alone_works_on_every_shard_and_gives_all_up_at_its_end(any_streams_url, raw, shards):
    async with process(any_streams_url, "a", shards=shards) as it:
        await until(lambda: len(it.worker.working) == shards)
    assert sorted(it.worker.ended) == [(shard, True) for shard in range(shards)]
    assert not any(raw.exists(Keys(shard).owner("route")) for shard in range(shards))
    assert raw.zcard("ab:processes:route") == 0


async def test_three_processes_share_evenly_and_no_shard_has_two(any_streams_url):
    async with (
        process(any_streams_url, "a", shards=8) as a,
        process(any_streams_url, "b", shards=8) as b,
        process(any_streams_url, "c", shards=8) as c,
    ):
        await until(lambda: [len(one.worker.working) for one in (a, b, c)] == [3, 3, 2])
        owned = [shard for one in (a, b, c) for shard in one.worker.working]
        assert sorted(owned) == list(range(8))
    assert all(gracefully for one in (a, b, c) for _, gracefully in one.worker.ended)


async def test_what_the_other_trade_holds_is_given_up_last(any_streams_url):
    """Else one process may route what another delivers, for ever: each has its share of either trade."""
    async with process(any_streams_url, "a", shards=4) as a:
        await until(lambda: len(a.worker.working) == 4)
        a.preferred = list(a.worker.working)[2:]
        a.worker.may_stop.clear()
        async with process(any_streams_url, "b", shards=4) as b:
            await until(lambda: sorted(a.tenancy.shards) == sorted(a.preferred))
            assert len(a.worker.working) == 4, "what is handed over is no longer held for others"
            a.worker.may_stop.set()
            await until(lambda: len(b.worker.working) == 2)
            assert sorted(a.worker.working) == sorted(a.preferred)


async def test_a_lease_is_kept_while_its_worker_drains(any_streams_url, raw):
    async with process(any_streams_url, "a", shards=2) as it:
        await until(lambda: len(it.worker.working) == 2)
        it.worker.may_stop.clear()
        it.stopping.set()
        owners = [Keys(shard).owner("route") for shard in range(2)]
        for _ in range(3):
            assert all(raw.pexpire(owner, LEASE_MS // 2) for owner in owners)
            await until(lambda: all(raw.pttl(owner) > LEASE_MS // 2 for owner in owners))
        assert sorted(it.worker.working) == [0, 1]
        it.worker.may_stop.set()
    assert sorted(it.worker.ended) == [(0, True), (1, True)]


async def test_a_lost_lease_ends_the_work_at_once(any_streams_url, raw):
    async with process(any_streams_url, "a", shards=2) as it:
        await until(lambda: len(it.worker.working) == 2)
        raw.set(Keys(1).owner("route"), "99:thief", px=60_000)
        await until(lambda: (1, False) in it.worker.ended)
        assert list(it.worker.working) == [0]


async def test_leases_lapse_while_redis_is_away_and_are_taken_again_after(any_streams_url, raw):
    async with process(any_streams_url, "a", shards=2, lease_ms=200) as it:
        await until(lambda: len(it.worker.working) == 2)
        tokens = {shard: lease.value for shard, lease in it.worker.working.items()}
        asking = it.link.get
        it.link.get = unavailable
        await until(lambda: not it.worker.working)
        it.link.get = asking
        await until(lambda: len(it.worker.working) == 2)
        assert all(it.worker.working[shard].value != tokens[shard] for shard in range(2))


async def unavailable():
    raise StreamsUnavailable("away")


async def test_a_second_process_takes_over_what_a_killed_one_held(any_streams_url):
    killed = Process(any_streams_url, "a", shards=3, lease_ms=200)
    task = asyncio.ensure_future(killed.tenancy.run(killed.stopping))
    await until(lambda: len(killed.worker.working) == 3)
    killed.tenancy._leave = nothing  # killed: no chance to give anything up
    task.cancel()
    await asyncio.wait([task])
    async with process(any_streams_url, "b", shards=3, lease_ms=200) as it:
        await until(lambda: len(it.worker.working) == 3)
        for shard, lease in it.worker.working.items():
            assert int(lease.value.split(":")[0]) > int(killed.worker.working[shard].value.split(":")[0])
    await killed.link.close()


async def nothing() -> None:
    pass


async def test_a_hand_over_may_end_in_the_middle_of_a_renewal(any_streams_url):
    async with process(any_streams_url, "a", shards=1) as it:
        await until(lambda: it.worker.working)
        asking, asked = it.link.get, 0

        async def slowly():
            nonlocal asked
            asked += 1
            connection = await asking()
            if asked == 1:  # of the turn in which the lease is given up
                it.worker.may_stop.set()
                await asyncio.sleep(0.1)
            return connection

        it.worker.may_stop.clear()
        await asyncio.sleep(0)
        it.stopping.set()
        it.link.get = slowly
    assert it.worker.ended == [(0, True)]
