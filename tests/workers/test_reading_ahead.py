"""A backlog in one ingress lane, longer than what a router reads ahead of it."""

import asyncio

import pytest
from worker_rig import World, message, until

from broker.streams.lanes import joined
from schema.codec import encode
from schema.limits import ROUTE_BATCH_MAX
from schema.message import LANES, Lane
from workers import router
from workers.moving import Mover

ENTRY = 32
"""Messages of an entry. A read brings more of them than a batch takes, so the router reads ahead."""


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> int:
    """Fill a lane with few entries."""
    monkeypatch.setattr(router, "BUFFERED_ENTRIES_MAX", 8)
    return 8


def publish(world: World, puller, *, entries: int, lane: Lane = Lane.NORMAL) -> int:
    with world.raw.pipeline(transaction=False) as pipeline:
        for _ in range(entries):
            many = [encode(message(puller, lane=lane)) for _ in range(ENTRY)]
            pipeline.xadd(world.keys[0].ingress[lane], {"m": joined(many)})
        pipeline.execute()
    return entries * ENTRY


def place(entry: bytes) -> tuple[int, int]:
    """Return an entry id as what Redis sorts by: ids it has given to several streams tell which was first."""
    at_ms, number = entry.split(b"-")
    return int(at_ms), int(number)


async def test_a_backlog_in_one_lane_is_routed_without_waiting_for_messages_in_the_others(streams_url, ahead):
    """Were they waited for while the lane is full, each of some thirty fillings would take two seconds."""
    async with World(streams_url) as world:
        puller = world.agent()
        count = publish(world, puller, entries=40 * ahead)
        await world.site()
        mailbox = world.keys[0].mailbox(puller.id, Lane.NORMAL)
        await until(lambda: world.raw.xlen(mailbox) == count, timeout_s=30)


async def test_an_urgent_message_passes_a_lane_that_is_full(streams_url, ahead, monkeypatch):
    class Watched(Mover):
        def move(self, placed, on_moved):
            if not world.raw.exists(normal) and not world.raw.exists(keys.ingress[Lane.HIGH]):
                world.raw.xadd(keys.ingress[Lane.HIGH], {"m": encode(message(puller, lane=Lane.HIGH))})
            super().move(placed, on_moved)

    monkeypatch.setattr(router, "Mover", Watched)
    async with World(streams_url) as world:
        puller, keys = world.agent(), world.keys[0]
        normal, high = (keys.mailbox(puller.id, lane) for lane in (Lane.NORMAL, Lane.HIGH))
        count = publish(world, puller, entries=40 * ahead)
        await world.site()
        await until(lambda: world.raw.xlen(normal) == count and world.raw.exists(high), timeout_s=30)
        [(last, _)], [(urgent, _)] = world.raw.xrevrange(normal, count=1), world.raw.xrange(high, count=1)
        assert place(urgent) < place(last)


@pytest.mark.parametrize("urgent", [True, False])
async def test_what_stands_before_urgent_messages_is_kept_short(streams_url, monkeypatch, urgent):
    monkeypatch.setattr(router, "URGENT_FOR_S", 3_600.0)
    sizes, under_way = [], []

    class Watched(Mover):
        def move(self, placed, on_moved):
            sizes.append(sum(len(many) for _, many in placed))
            under_way.append(on_moved.func.__self__._calls)
            super().move(placed, on_moved)

    monkeypatch.setattr(router, "Mover", Watched)
    async with World(streams_url) as world:
        puller = world.agent()
        await world.site()
        await world.send(message(puller, lane=Lane.HIGH if urgent else Lane.NORMAL))
        mailboxes = [world.keys[0].mailbox(puller.id, lane) for lane in Lane]
        await until(lambda: world.raw.exists(*mailboxes) == 1)
        sizes.clear(), under_way.clear()
        publish(world, puller, entries=40)
        await until(lambda: sum(map(world.raw.xlen, mailboxes)) == 1 + 40 * ENTRY)
    bound = router.BATCH_BESIDE_URGENT_MAX if urgent else ROUTE_BATCH_MAX
    assert bound - ENTRY < max(sizes) <= bound
    assert max(under_way) == 1 if urgent else max(under_way) > 1


@pytest.mark.parametrize(
    ("came", "waiting", "expected"),
    [
        ((), (0, 9, 0), False),
        ((Lane.HIGH,), (0, 9, 0), True),
        ((Lane.HIGH,), (9, 9, 0), False),
        ((Lane.HIGH, Lane.NORMAL), (4, 9, 0), True),
        ((Lane.NORMAL,), (0, 9, 0), False),
        ((Lane.LOW,), (0, 9, 0), False),
        ((Lane.LOW,), (9, 0, 1), False),
        ((Lane.NORMAL,), (9, 1, 9), False),
        ((Lane.NORMAL,), (1, 1, 9), True),
    ],
)
async def test_calls_are_kept_short_beside_what_is_less_urgent_only(streams_url, came, waiting, expected):
    async with World(streams_url) as world:
        site = await world.ready_site()
        routing, now_s = site.shards[0].router, asyncio.get_running_loop().time()
        for lane, count in zip(LANES, waiting, strict=True):
            routing._buffers[lane].extend(range(count))
            if lane in came:
                routing._came_s[lane] = now_s + 3_600
        short = routing._is_beside_urgent
        for lane in LANES:
            routing._buffers[lane].clear()
        assert short is expected
