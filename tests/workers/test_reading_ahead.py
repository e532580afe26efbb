"""A backlog in one ingress lane, longer than what a router reads ahead of it."""

import pytest
from worker_rig import World, message, until

from broker.streams.lanes import joined
from schema.codec import encode
from schema.limits import ROUTE_BATCH_MAX
from schema.message import Lane
from workers import router
from workers.moving import Mover

ENTRY = 32
"""Messages of an entry. A read brings more of them than a batch takes, so the router reads ahead."""


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> int:
    """Fill a lane with few entries."""
    monkeypatch.setattr(router, "BUFFERED_ENTRIES_MAX", 8)
    return 8


def publish(world: World, puller, *, entries: int) -> int:
    lane = world.keys[0].ingress[Lane.NORMAL]
    with world.raw.pipeline(transaction=False) as pipeline:
        for _ in range(entries):
            pipeline.xadd(lane, {"m": joined([encode(message(puller)) for _ in range(ENTRY)])})
        pipeline.execute()
    return entries * ENTRY


async def test_a_backlog_in_one_lane_is_routed_without_waiting_for_messages_in_the_others(streams_url, ahead):
    """Were they waited for while the lane is full, each of some thirty fillings would take two seconds."""
    async with World(streams_url) as world:
        puller = world.agent()
        count = publish(world, puller, entries=40 * ahead)
        await world.site()
        mailbox = world.keys[0].mailbox(puller.id, Lane.NORMAL)
        await until(lambda: world.raw.xlen(mailbox) == count, timeout_s=30)


async def test_an_urgent_message_passes_a_lane_that_is_full(streams_url, ahead):
    async with World(streams_url) as world:
        puller, keys = world.agent(), world.keys[0]
        publish(world, puller, entries=40 * ahead)
        await world.site()
        await until(lambda: world.raw.xlen(keys.mailbox(puller.id, Lane.NORMAL)) > 0)
        world.raw.xadd(keys.ingress[Lane.HIGH], {"m": encode(message(puller, lane=Lane.HIGH))})
        await until(lambda: world.raw.xlen(keys.mailbox(puller.id, Lane.HIGH)) == 1)
        assert world.raw.xlen(keys.ingress[Lane.NORMAL]) > 0


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
