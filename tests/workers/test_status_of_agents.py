"""What the state of an agent means for what is pushed: paused, disabled, draining, gone; a rotated secret."""

from datetime import UTC, datetime

import pytest
from cluster import keys_of
from msgspec.structs import replace
from receiver import Receiver
from worker_rig import World, message, until

from broker.core.fold import fold
from broker.streams.connection import open_connection
from broker.streams.departure import return_all
from broker.transport.signature import Signer, new_secret
from schema.agent import Agent, AgentStatus
from schema.message import Status

DELIVERED = [(Status.DELIVERED, None)]
DISABLED = [(Status.FAILED, "recipient_disabled")]
RETURNED = (Status.FAILED, "recipient_deleted")
SOON_MS = 60_000


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def forget(world: World, agent: Agent) -> None:
    """Let everybody hear that an agent was deleted."""
    world.live.directory.remove(agent.id)
    for site in world._sites:
        for shard in site.shards:
            shard.agent_changed(agent.id, None)


async def queued(world: World, receiver: Receiver, agent: Agent, count: int = 5) -> list[str]:
    """Send messages to an agent that takes one at a time; return them when the first is being posted."""
    receiver.hold()
    ids = await world.send(*(message(agent) for _ in range(count)))
    await receiver.until(lambda it: it.under_way == 1)
    await until(lambda: len(mailbox_of(world, agent)) == count)
    return ids


def mailbox_of(world: World, agent: Agent) -> list[object]:
    return [
        entry for key in keys_of(world.raw, f"ab:*:inbox:{agent.id}:*") for entry in world.raw.xrange(key)
    ]


async def test_messages_to_a_paused_agent_wait_and_are_pushed_once_when_it_is_active(
    streams_url: str,
) -> None:
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent, other = world.agent(receiver, status=AgentStatus.PAUSED), world.agent(receiver)
        await world.site()
        waiting = await world.send(*(message(agent, priority=priority) for priority in (1, 5, 9)))
        await world.until_ended(await world.send(message(other)))
        await until(lambda: len(mailbox_of(world, agent)) == 3)
        assert not set(waiting) & set(receiver.ids)
        assert all(world.by_id()[one] for one in waiting)  # on record as pending
        world.put(replace(agent, status=AgentStatus.ACTIVE))
        await world.until_ended(waiting)
        assert [receiver.times[one] for one in waiting] == [1, 1, 1]
        await world.until_clean()


@pytest.mark.parametrize("status", [AgentStatus.PAUSED, AgentStatus.DISABLED])
async def test_what_is_queued_is_held_back_and_what_is_posted_ends(
    streams_url: str, status: AgentStatus
) -> None:
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, concurrency=1)
        await world.site()
        ids = await queued(world, receiver, agent)
        world.put(replace(agent, status=status))
        receiver.let_go()
        await world.until_ended(receiver.ids)
        other = await world.receiver()
        await world.until_ended(await world.send(message(world.agent(other))))
        assert len(receiver.ids) == 1
        assert len(mailbox_of(world, agent)) == 4
        world.put(replace(agent, status=AgentStatus.ACTIVE))
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        assert all(world.ends()[one] == DELIVERED for one in ids)
        await world.until_clean()


async def test_a_take_over_leaves_a_paused_agent_alone(streams_url: str) -> None:
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, status=AgentStatus.PAUSED)
        first = await world.site()
        ids = await world.send(message(agent))
        await until(lambda: len(mailbox_of(world, agent)) == 1)
        await first.stop()
        await (await world.site()).until_ready()
        await world.until_ended(await world.send(message(world.agent(await world.receiver()))))
        assert receiver.ids == []
        world.put(replace(agent, status=AgentStatus.ACTIVE))
        await world.until_ended(ids)
        assert receiver.ids == ids


async def test_a_draining_agent_gets_what_waits_and_nothing_new(streams_url: str) -> None:
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, concurrency=1)
        await world.site()
        ids = await queued(world, receiver, agent)
        world.put(replace(agent, status=AgentStatus.DISABLED, drains_until_ms=now_ms() + SOON_MS))
        late = await world.send(message(agent))
        await world.until_ended(late)
        receiver.let_go()
        await world.until_ended(ids)
        assert world.ends()[late[0]] == DISABLED
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()


async def test_nothing_queued_is_pushed_to_an_agent_that_is_gone_and_everything_ends_once(
    streams_url: str,
) -> None:
    async with World(streams_url) as world, await open_connection(streams_url, name="test") as connection:
        receiver = await world.receiver()
        agent, sender = world.agent(receiver, concurrency=1, name="leaver"), world.agent()
        await world.site()
        receiver.hold()
        ids = await world.send(*(message(agent, from_agent_id=sender.id) for _ in range(5)))
        await receiver.until(lambda it: it.under_way == 1)
        await until(lambda: len(mailbox_of(world, agent)) == 5)
        forget(world, agent)
        count = await return_all(connection, agent.id, shards=1, now_ms=now_ms())
        assert count == 5
        receiver.let_go()
        posted = receiver.ids[0]
        await until(lambda: len(world.ends()[posted]) == 2)
        assert len(receiver.ids) == 1
        # What was being posted has been told of twice; on record the first end stays.
        assert world.ends()[posted] == [RETURNED, *DELIVERED]
        rows = {row.id: row for row in fold(world.events(), shard=0).messages}
        assert {(rows[one].status, rows[one].reason) for one in ids} == {RETURNED}
        assert mailbox_of(world, agent) == []


async def test_after_a_rotation_pushes_carry_both_signatures_until_the_overlap_ends(streams_url: str) -> None:
    async with World(streams_url) as world:
        receiver = await world.receiver()
        former, secret = new_secret(), new_secret()
        agent = world.agent(receiver, signing_secret=former)
        await world.site()

        async def signed() -> list[str]:
            """Return which of the secrets the next push is signed with."""
            await world.until_ended(await world.send(message(agent)))
            got = receiver.got[-1]
            stamp = int(got.headers["webhook-timestamp"])
            given = got.headers["webhook-signature"].split(" ")
            made = {Signer(one).sign(got.id, stamp, got.body).decode(): one for one in (former, secret)}
            return [made[one] for one in given]

        assert await signed() == [former]
        rotated = replace(agent, signing_secret=secret, previous_secret=former)
        world.put(replace(rotated, previous_secret_until_ms=now_ms() + SOON_MS))
        assert await signed() == [secret, former]
        world.put(replace(rotated, previous_secret_until_ms=now_ms() - 1_000))
        assert await signed() == [secret]
