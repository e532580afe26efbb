"""Leases: spread evenly, fenced by growing tokens, given up, lost."""

import asyncio
import time

import pytest
from streams_rig import until

from broker.streams.clock import ServerClock
from broker.streams.keys import Keys
from broker.streams.ownership import Lease, Leases

SHARDS = 8


def leases(process: str, *, lease_ms: int = 10_000, shards: int = SHARDS) -> Leases:
    return Leases(trade="route", process=process, shards=shards, lease_ms=lease_ms)


async def settle_down(connection, processes: list[Leases]) -> None:
    """Let every process look three times, as they do in turn: announce, give up, take."""
    clock = ServerClock()
    await clock.measure(connection)
    for _ in range(3):
        for one in processes:
            due = await one.due(connection, now_ms=clock.now_ms())
            for shard in list(one.held)[due:]:
                await one.release(connection, shard)
            await one.take(connection, up_to=due)


@pytest.mark.parametrize(
    ("count", "shares"), [(1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (8, [1] * 8), (10, [1] * 8 + [0] * 2)]
)
async def test_shards_spread_evenly(connection, raw, count, shares):
    processes = [leases(f"p{number:02}") for number in range(count)]
    await settle_down(connection, processes)
    assert [len(one.held) for one in processes] == shares
    owned = [shard for one in processes for shard in one.held]
    assert sorted(owned) == list(range(SHARDS))


async def test_a_process_that_joins_gets_its_share_and_one_that_leaves_gives_it_back(connection, raw):
    first, second = leases("a"), leases("b")
    await settle_down(connection, [first])
    assert len(first.held) == SHARDS
    await settle_down(connection, [first, second])
    assert (len(first.held), len(second.held)) == (4, 4)
    await first.leave(connection)
    await settle_down(connection, [second])
    assert len(second.held) == SHARDS


async def test_a_process_that_died_is_not_counted_for_long(connection, raw):
    dead, alive = leases("a", lease_ms=100), leases("b", lease_ms=100)
    await settle_down(connection, [dead, alive])
    assert len(alive.held) < SHARDS

    async def look() -> int:
        await alive.renew(connection)
        await settle_down(connection, [alive])
        return len(alive.held)

    async with asyncio.timeout(5):
        while await look() < SHARDS:
            pass


async def test_tokens_only_grow_and_a_late_process_is_told_it_lost(connection, raw):
    one, other = leases("a", lease_ms=50, shards=1), leases("b", lease_ms=10_000, shards=1)
    [first] = await one.take(connection, up_to=1)
    await until(lambda: not raw.exists(Keys(0).owner("route")))
    [second] = await other.take(connection, up_to=1)
    assert int(first.value.split(":")[0]) < int(second.value.split(":")[0])
    assert not first.is_live
    assert await one.renew(connection) == [first]
    assert one.held == {}
    assert await other.renew(connection) == []
    assert second.is_live


async def test_releasing_what_was_lost_takes_nothing_from_the_new_owner(connection, raw):
    one, other = leases("a", lease_ms=50, shards=1), leases("b", shards=1)
    await one.take(connection, up_to=1)
    await until(lambda: not raw.exists(Keys(0).owner("route")))
    [lease] = await other.take(connection, up_to=1)
    await one.release(connection, 0)
    assert raw.get(Keys(0).owner("route")).decode() == lease.value


async def test_preferred_shards_are_taken_first(connection, raw):
    one = leases("a")
    taken = await one.take(connection, up_to=3, prefer=[5, 2])
    assert [lease.shard for lease in taken] == [5, 2, 0]


async def test_leases_that_could_not_be_renewed_are_dropped_when_their_time_has_passed(connection, raw):
    one = leases("a", lease_ms=60_000, shards=2)
    taken = await one.take(connection, up_to=2)
    assert one.drop_ended() == []
    for lease in taken:
        lease.ends_at_s -= 60
    assert one.drop_ended() == taken
    assert one.held == {}


async def test_a_lease_given_up_while_it_is_being_renewed_is_no_loss(any_streams_url, connection, raw):
    """A hand-over runs beside the renewals of the others, and ends in the middle of one."""
    from broker.streams.connection import open_connection

    one = leases("a")
    await one.take(connection, up_to=SHARDS)
    async with await open_connection(any_streams_url, name="other") as other:
        for shard in reversed(range(SHARDS)):
            lost, _ = await asyncio.gather(one.renew(connection), one.release(other, shard))
            assert lost == []
    assert one.held == {}


async def test_a_process_started_again_takes_its_leases_back_at_once_with_a_new_token(connection, raw):
    before, again, other = leases("a"), leases("a"), leases("b")
    old = await before.take(connection, up_to=SHARDS)
    assert await other.take(connection, up_to=SHARDS) == []
    new = await again.take(connection, up_to=SHARDS)
    assert [lease.shard for lease in new] == [lease.shard for lease in old]
    tokens = [int(lease.value.split(":")[0]) for lease in (*old, *new)]
    assert min(tokens[SHARDS:]) > 1
    assert all(later > earlier for earlier, later in zip(tokens[:SHARDS], tokens[SHARDS:], strict=True))
    assert len(await before.renew(connection)) == SHARDS  # all lost: the earlier life is fenced


def test_how_late_the_end_of_a_lease_is_seen():
    now_s = time.monotonic()
    assert Lease(0, "deliver", "1:a", now_s + 60).late_ms == 0
    assert 2_000 <= Lease(0, "deliver", "1:a", now_s - 2).late_ms < 60_000
