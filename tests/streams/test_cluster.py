"""Connections to a real cluster of three nodes: who answers, what follows a slot that moves, and what a node
that is killed takes with it."""

import asyncio

import pytest
from cluster import Cluster, client_of, close
from streams_rig import until

from broker.streams.clock import ServerClock
from broker.streams.cluster import ClusterConnection
from broker.streams.connection import open_connection
from broker.streams.ingress import Publisher
from broker.streams.keys import DEPLOYMENT, Keys
from broker.streams.link import Link
from broker.streams.node import NodeConnection
from broker.streams.notifications import Notices
from broker.streams.ownership import Leases
from broker.streams.presence import Presence
from broker.streams.slots import slot_of, slot_of_tag
from schema.errors import StreamsUnavailable
from schema.ids import new_id, shard_of
from schema.message import Envelope

SHARDS = 8


def key(shard: int) -> str:
    return Keys(shard).active


def elsewhere(cluster: Cluster, shard: int) -> tuple[int, int]:
    """Return the slot of a shard and the number of a node that does not serve it."""
    return slot_of_tag(b"%d" % shard), (cluster.node_of(shard) + 1) % len(cluster.servers)


async def test_commands_find_the_nodes_of_their_keys_and_answers_come_in_the_order_asked(cluster):
    async with await open_connection(cluster.url, name="test") as connection:
        assert isinstance(connection, ClusterConnection)
        await connection.send_many([("SET", key(shard), shard) for shard in range(SHARDS)])
        answers = await connection.send_many([("GET", key(shard)) for shard in range(SHARDS)])
    assert answers == [b"%d" % shard for shard in range(SHARDS)]
    assert len({cluster.node_of(shard) for shard in range(SHARDS)}) == 3


async def test_a_connection_for_a_key_leads_to_the_node_that_serves_it(cluster):
    for shard in range(SHARDS):
        async with await open_connection(cluster.url, name="test", key=key(shard)) as connection:
            assert isinstance(connection, NodeConnection)
            assert await connection.send("SET", key(shard), "x") == b"OK"


async def test_a_slot_that_moved_is_followed_and_the_command_is_done_once(cluster):
    slot, target = elsewhere(cluster, 3)
    async with await open_connection(cluster.url, name="test") as connection:
        await connection.send("INCR", key(3))
        await asyncio.to_thread(cluster.migrate, slot, target)
        assert await connection.send_many([("INCR", key(3))] * 5) == [2, 3, 4, 5, 6]


async def test_a_slot_on_its_way_key_by_key_is_asked_for_at_both_ends(cluster):
    keys, (slot, target) = Keys(4), elsewhere(cluster, 4)
    names = [keys.session(str(number)) for number in range(20)]
    async with await open_connection(cluster.url, name="test") as connection:
        await connection.send_many([("SET", name, name) for name in names])
        loop = asyncio.get_running_loop()

        def look() -> None:
            replies = asyncio.run_coroutine_threadsafe(
                connection.send_many([("GET", name) for name in names]), loop
            ).result(10)
            assert [reply.decode() for reply in replies] == names

        await asyncio.to_thread(cluster.migrate_by_key, slot, target, between=look)
        assert await connection.send("GET", names[0]) == names[0].encode()
    assert cluster.node_of(4) == target


async def test_an_owner_whose_slot_moved_is_told_and_finds_the_new_node_when_it_begins_anew(cluster):
    slot, target = elsewhere(cluster, 5)
    async with await open_connection(cluster.url, name="owner", key=key(5)) as connection:
        await connection.send("SET", key(5), "mine")
        await asyncio.to_thread(cluster.migrate, slot, target)
        with pytest.raises(StreamsUnavailable):
            await connection.send("GET", key(5))
    async with await open_connection(cluster.url, name="owner", key=key(5)) as connection:
        assert await connection.send("GET", key(5)) == b"mine"


async def test_a_read_that_waits_ends_when_its_slot_moves_away(cluster):
    slot, target = elsewhere(cluster, 6)
    stream = Keys(6).doorbell
    async with await open_connection(cluster.url, name="reader", key=stream) as reader:
        waiting = asyncio.ensure_future(reader.send("XREAD", "BLOCK", 60_000, "STREAMS", stream, "$"))
        await asyncio.sleep(0)
        await asyncio.to_thread(cluster.migrate, slot, target)
        with pytest.raises(StreamsUnavailable):
            await asyncio.wait_for(waiting, 10)


async def test_a_node_that_is_killed_takes_nobody_elses_commands_with_it(cluster):
    dead = cluster.node_of(0)
    here = [shard for shard in range(SHARDS) if cluster.node_of(shard) != dead]
    async with await open_connection(cluster.every_url, name="test") as connection:
        await connection.send_many([("SET", key(shard), "x") for shard in range(SHARDS)])
        cluster.kill(dead)
        with pytest.raises(StreamsUnavailable):
            await connection.send("GET", key(0))
        assert await connection.send_many([("GET", key(shard)) for shard in here]) == [b"x"] * len(here)
        # New connections do not depend on the node that is down, though it is named first.
        async with await open_connection(cluster.every_url, name="late", key=key(here[0])) as late:
            assert await late.send("GET", key(here[0])) == b"x"
        await asyncio.to_thread(cluster.restart, dead)
        assert await connection.send("GET", key(0)) == b"x"


async def test_leases_on_other_nodes_are_kept_while_one_is_down_and_its_own_end(cluster):
    # Neither who is alive nor what time it is may lie on the node that dies.
    needed = {cluster.slots().owner(slot_of(name)).port for name in ("ab:processes:route", DEPLOYMENT)}
    dead = next(n for n in range(3) if cluster.port(n) not in needed)
    own = {shard for shard in range(SHARDS) if cluster.node_of(shard) == dead}
    link = Link(cluster.every_url, name="test")
    leases = Leases(trade="route", process="a", shards=SHARDS, lease_ms=40_000)
    connection = await link.get()
    await leases.take(connection, up_to=SHARDS)
    assert len(leases.held) == SHARDS
    cluster.kill(dead)
    for shard in own:
        leases.held[shard].ends_at_s -= 38  # The others' are too long for a stall of the machine to end them.
    lost: set[int] = set()
    async with asyncio.timeout(20):
        while lost != own:
            lost |= {lease.shard for lease in await leases.renew(connection)}
            assert lost <= own
            assert all(lease.is_live for shard, lease in leases.held.items() if shard not in own)
            await asyncio.sleep(0.05)
    clock = ServerClock()
    await clock.measure(connection)
    assert await leases.due(connection, now_ms=clock.now_ms()) == SHARDS
    assert await leases.take(connection, up_to=SHARDS) == []
    await asyncio.to_thread(cluster.restart, dead)

    async def all_again() -> bool:
        await leases.renew(connection)
        await leases.take(connection, up_to=SHARDS)
        return len(leases.held) == SHARDS

    async with asyncio.timeout(20):
        while not await all_again():  # noqa: ASYNC110  # what is waited for happens in Redis
            await asyncio.sleep(0.05)
    await link.close()


async def test_presence_of_the_others_is_read_while_a_node_is_down(cluster):
    link = Link(cluster.every_url, name="test")
    presence = Presence(link, shards=SHARDS)
    agents: dict[int, str] = {}
    while len(agents) < SHARDS:
        agent = new_id()
        agents[shard_of(agent, SHARDS)] = agent
    await presence.note(dict.fromkeys(agents.values(), 1_000))
    assert (await presence.changed_since(0))[0].keys() == set(agents.values())
    cluster.kill(cluster.node_of(0))
    served = {agents[shard] for shard in range(SHARDS) if cluster_serves(cluster, shard)}
    assert (await presence.changed_since(0))[0].keys() == served != set(agents.values())
    await link.close()


def cluster_serves(cluster: Cluster, shard: int) -> bool:
    """Whether the node of a shard runs."""
    running = [n for n in range(3) if cluster.servers[n].exit_code() is None]
    slots = cluster.slots_by(running[0])
    return slots.owner(slot_of_tag(b"%d" % shard)).port in {cluster.port(n) for n in running}


async def test_what_is_said_at_one_node_is_heard_at_every_other(cluster):
    heard: list[bytes] = []
    notices = Notices(cluster.url, {"ab:test": heard.append})
    listening = asyncio.create_task(notices.run())
    await asyncio.wait_for(notices.listening.wait(), 10)
    for shard in range(SHARDS):
        async with await open_connection(cluster.url, name="test", key=key(shard)) as connection:
            await connection.send("PUBLISH", "ab:test", str(shard))
    await until(lambda: len(heard) == SHARDS)
    assert sorted(heard) == [b"%d" % shard for shard in range(SHARDS)]
    listening.cancel()
    await asyncio.wait([listening])


async def test_publishing_goes_on_while_a_slot_moves_and_every_message_is_stored(cluster):
    slot, target = elsewhere(cluster, 0)
    publisher = Publisher(cluster.url, shards=1)
    ids: list[str] = []
    enough = asyncio.Event()

    async def publish() -> None:
        while not enough.is_set():
            envelope = Envelope(id=new_id(), to_agent_id=new_id())
            await publisher.publish(envelope)
            ids.append(envelope.id)

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        await until(lambda: len(ids) > 20)
        await asyncio.to_thread(cluster.migrate, slot, target)
        seen = len(ids)
        await until(lambda: len(ids) > seen + 20)
        enough.set()
    await publisher.close()
    raw = client_of(cluster.url)
    stored = [fields for name in Keys(0).ingress.values() for _, fields in raw.xrange(name)]
    close(raw)
    text = b"".join(value for fields in stored for value in fields.values())
    assert all(message_id.encode() in text for message_id in ids)
