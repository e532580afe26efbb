"""Agents whose signing secret cannot be opened: what is sent to them waits, and goes out signed or never."""

from msgspec.structs import replace
from worker_rig import World, message, until

from broker.core.sealing import Sealer
from broker.transport.signature import new_secret
from schema.message import Status

RIGHT, WRONG = "r" * 32, "w" * 32


async def test_what_is_sent_to_an_agent_with_a_sealed_secret_waits_until_it_can_be_signed(streams_url):
    async with World(streams_url) as world:
        receiver, other = await world.receiver(), await world.receiver()
        agent, fine = world.agent(receiver), world.agent(other)
        secret = agent.signing_secret
        stored = Sealer([RIGHT]).seal(secret, owner=agent.id, nonce=bytes(12))
        world.put(replace(agent, signing_secret=Sealer([WRONG]).open(stored, owner=agent.id)))
        await world.site()
        waiting = await world.send(*(message(agent) for _ in range(20)))
        [sent] = await world.send(message(fine))
        await world.until_ended([sent])
        await until(lambda: set(waiting) <= set(world.by_id()))  # routed, and on record
        assert receiver.got == []
        assert not any(world.ends()[one] for one in waiting)
        world.put(replace(agent, signing_secret=Sealer([WRONG, RIGHT]).open(stored, owner=agent.id)))
        await world.until_ended(waiting)
        assert {world.ends()[one][0][0] for one in waiting} == {Status.DELIVERED}
        assert all(got.headers["webhook-signature"] for got in receiver.got)
        await world.until_clean()


async def test_a_secret_that_becomes_unreadable_stops_pushes_and_loses_nothing(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        await world.site()
        receiver.hold()
        ids = await world.send(*(message(agent) for _ in range(50)))
        await until(lambda: receiver.under_way > 0)
        sealed = replace(agent, signing_secret="sealed:1:00000000:AAAA")
        world.put(sealed)
        receiver.let_go()
        world.put(replace(agent, signing_secret=new_secret(), previous_secret=sealed.signing_secret))
        await world.until_ended(ids)
        assert set(receiver.ids) == set(ids)
        await world.until_clean()
