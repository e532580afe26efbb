"""An owner dies before it has told the record of what it held, and its agent pulls when the next comes."""

import pytest
from msgspec.structs import replace
from worker_rig import PATIENT, World, message, until

from schema.agent import AgentStatus
from schema.ledger import EventKind
from schema.message import Lane
from workers.delivery import announcing, left_to_pull
from workers.delivery.left_to_pull import PAGE

pytestmark = pytest.mark.usefixtures("never_told")


async def left_behind(world, count, **agent_fields):
    """Have an owner hold messages and die, then take the endpoint from their agent; return it and the ids."""
    receiver, agent, site = await world.held(**agent_fields)
    ids = await world.send(*(message(agent) for _ in range(count)))
    await until(lambda: site.shards[0].delivery.outstanding(agent.id) == count)
    await site.kill()
    receiver.let_go()
    assert world.events() == []
    world.put(replace(agent, endpoint=None))
    return agent, ids


def mailbox_of(world, agent):
    return world.keys[0].mailbox(agent.id, Lane.NORMAL)


def is_active(world, agent):
    return world.raw.zscore(world.keys[0].active, mailbox_of(world, agent)) is not None


@pytest.mark.parametrize("ordered", [False, True], ids=["direct", "in its mailbox"])
async def test_the_record_is_told_of_what_is_left_to_an_agent_that_pulls_by_now(any_streams_url, ordered):
    async with World(any_streams_url) as world:
        agent, ids = await left_behind(world, 10, ordered=ordered)
        await world.site()
        await until(lambda: set(ids) == world.by_id().keys() and not is_active(world, agent))
        entries = {event.mailbox_entry: event for event in world.events()}
        assert [entry.decode() for entry, _ in world.raw.xrange(mailbox_of(world, agent))] == list(entries)
        assert [event.id for event in entries.values()] == ids
        assert {(event.kind, event.to) for event in entries.values()} == {(EventKind.ROUTED, agent.id)}


async def test_all_pages_are_told_and_what_is_no_message_is_set_aside(streams_url):
    async with World(streams_url) as world:
        agent, ids = await left_behind(world, 10, ordered=True)
        mailbox = mailbox_of(world, agent)
        world.raw.xadd(mailbox, {"m": b"junk"})
        body = world.raw.xrange(mailbox, count=1)[0][1][b"m"]
        more = [
            body.replace(ids[0].encode(), f"01890000-0000-7000-8000-{number:012x}".encode())
            for number in range(2 * PAGE)
        ]
        for one in more:
            world.raw.xadd(mailbox, {"m": one})
        await world.site()
        await until(lambda: not is_active(world, agent))
        told = [event for event in world.events() if event.kind is EventKind.ROUTED]
        assert [event.id for event in told[:10]] == ids
        assert len({event.id for event in told}) == world.raw.xlen(mailbox) == 10 + 2 * PAGE
        assert [e.raw is not None for e in world.events() if e.kind is EventKind.QUARANTINED] == [True]


@pytest.mark.parametrize("ordered", [False, True], ids=["direct", "in its mailbox"])
async def test_it_is_told_as_well_where_the_endpoint_was_taken_away_before_its_owner_died(
    streams_url, monkeypatch, ordered
):
    monkeypatch.setattr(left_to_pull, "TOLD_MS", 3_600_000)
    async with World(streams_url) as world:
        receiver, agent, site = await world.held(ordered=ordered)
        ids = await world.send(*(message(agent) for _ in range(10)))
        await until(lambda: site.shards[0].delivery.outstanding(agent.id) == len(ids))
        await receiver.until(lambda it: it.under_way == 1)
        world.put(replace(agent, endpoint=None))
        await until(lambda: world.raw.xlen(mailbox_of(world, agent)) >= len(ids) - 1)
        await site.kill()
        receiver.let_go()
        # What was given back is read and told at once: some of it before its owner was killed, or nothing.
        assert not ordered or world.events() == []
        await world.site()
        await until(lambda: set(ids) == world.by_id().keys() and not is_active(world, agent))


async def test_what_is_left_is_pushed_when_its_agent_has_an_endpoint_again(streams_url):
    async with World(streams_url) as world:
        agent, ids = await left_behind(world, 10)
        site = await world.site()
        await site.until_ready()
        world.put(agent)
        await world.until_ended(ids)
        await world.until_clean()


@pytest.mark.parametrize("ordered", [False, True], ids=["direct", "in its mailbox"])
async def test_it_is_told_as_well_where_its_agent_was_paused_when_the_next_owner_came(streams_url, ordered):
    async with World(streams_url) as world:
        agent, ids = await left_behind(world, 10, ordered=ordered)
        world.put(replace(agent, status=AgentStatus.PAUSED))
        await world.ready_site()
        assert world.events() == []
        world.put(replace(agent, endpoint=None))
        await until(lambda: set(ids) == world.by_id().keys() and not is_active(world, agent))


async def test_what_is_put_into_its_mailbox_late_keeps_no_mailbox_on_the_active_set(streams_url, monkeypatch):
    monkeypatch.setattr(left_to_pull, "TOLD_MS", 0)
    monkeypatch.setattr(announcing, "ANNOUNCE_MS", 1_000)
    async with World(streams_url) as world:
        world.rules["deadlines"] = PATIENT
        receiver = await world.receiver()
        agent = world.agent(receiver)
        await world.ready_site()
        receiver.hold()
        [posted] = await world.send(message(agent))
        await receiver.until(lambda it: it.under_way == 1)
        world.put(replace(agent, endpoint=None))
        await until(lambda: world.raw.xlen(mailbox_of(world, agent)) == 1)
        await until(lambda: world.by_id().keys() == {posted} and not is_active(world, agent))
        receiver.let_go()
