"""What a sender has taken back while it moves from one place to another is not delivered."""

from worker_rig import World, message, until

from broker.streams.link import Link
from broker.streams.mailbox import Mailboxes
from schema.codec import encode
from schema.message import Lane


async def test_what_was_taken_back_on_its_way_to_a_mailbox_is_dropped(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, capabilities=("sums",))
        woken, unparked = message(agent), message(requirements=["sums"])
        kept = message(agent)
        for one in (woken, unparked, kept):  # as they lie in the ingress once they were woken, or unparked
            world.raw.xadd(world.keys[0].ingress[Lane.NORMAL], {"m": encode(one), "p": "1"})
        link = Link(any_streams_url, name="gateway")
        mailboxes = Mailboxes(link, shards=1)
        for one in (woken, unparked):
            assert not await mailboxes.withdraw(one.id, Lane.NORMAL)
        await link.close()
        assert world.raw.pttl(world.keys[0].withdrawn) > 0
        await world.site()
        await world.until_ended([kept.id])
        await until(lambda: world.raw.xlen(world.keys[0].ingress[Lane.NORMAL]) == 0)
        await world.until_clean()
        assert receiver.ids == [kept.id]
        assert world.by_id().keys() == {kept.id}
