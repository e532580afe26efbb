"""A publisher whose replies are lost publishes again by itself; what it published arrives once."""

from cluster import one_server
from redis_proxy import proxied
from worker_rig import World, message

from broker.streams import ingress
from broker.streams.ingress import Publisher
from schema.message import Lane

pytestmark = one_server

TIMES = 3


async def test_a_message_whose_reply_was_dropped_three_times_is_delivered_once(any_streams_url, monkeypatch):
    """redis-py 8 stores four entries here and reports one success. So do we, but the router drops three."""
    monkeypatch.setattr(ingress, "BACKOFF_S", 0.01)
    async with World(any_streams_url) as world, proxied(any_streams_url) as proxy:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        publisher = Publisher(proxy.url, shards=1)
        one = message(agent)
        proxy.drops = TIMES
        await publisher.publish(one)
        await publisher.close()
        assert world.raw.xlen(world.keys[0].ingress[Lane.NORMAL]) == TIMES + 1
        await world.site()
        await world.until_ended([one.id])
        await world.until_clean()
        assert receiver.times == {one.id: 1}
