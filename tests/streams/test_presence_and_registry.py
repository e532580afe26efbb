"""Presence, the registry's word of changes, and mailboxes from outside."""

import asyncio

import pytest
from cluster import one_server

from broker.streams import registry as registry_module
from broker.streams.keys import REGISTRY, Keys
from broker.streams.link import Link
from broker.streams.mailbox import Mailboxes
from broker.streams.presence import Presence
from broker.streams.registry import Registry, RegistryFollower
from schema.ids import new_id, shard_of
from schema.message import Lane

SHARDS = 3


@pytest.fixture
async def link(any_streams_url):
    opened = Link(any_streams_url, name="test")
    yield opened
    await opened.close()


async def test_heartbeats_are_the_servers_time_in_the_shard_of_the_agent(link, raw):
    presence = Presence(link, shards=SHARDS)
    agent = new_id()
    before_s, _ = raw.time()
    at_ms = await presence.heartbeat(agent)
    after_s, _ = raw.time()
    assert before_s * 1_000 <= at_ms < (after_s + 1) * 1_000
    assert raw.zscore(Keys(shard_of(agent, SHARDS)).presence, agent) == at_ms
    assert await presence.last([agent, "nobody"]) == {agent: at_ms}
    assert await presence.last([]) == {}


async def test_an_older_heartbeat_never_replaces_a_newer_one(link, raw):
    presence = Presence(link, shards=SHARDS)
    agents = [new_id() for _ in range(20)]
    await presence.note(dict.fromkeys(agents, 2000))
    await presence.note(dict.fromkeys(agents, 1000))
    await presence.note({})
    assert await presence.last(agents) == dict.fromkeys(agents, 2000)


async def test_changes_since_a_moment_are_found(link, raw):
    presence = Presence(link, shards=SHARDS)
    old, new = new_id(), new_id()
    await presence.note({old: 1_000, new: 2_000})
    found, read = await presence.changed_since(0)
    assert found == {old: 1_000, new: 2_000}
    assert (await presence.changed_since(2_000))[0] == {new: 2_000}
    # Who reads on from there hears only of what was not read before.
    await presence.note({old: 3_000})
    found, again = await presence.changed_since(0, but=read)
    assert found == {old: 3_000}
    assert (await presence.changed_since(0, but=again)) == ({}, again)


# --- registry -------------------------------------------------------------------------------------------


async def test_a_follower_hears_every_change_once(link, connection, raw):
    registry, follower = Registry(link), RegistryFollower(connection)
    await registry.announce("before")
    await follower.start()
    assert await follower.read() == set()
    await registry.announce("a")
    await registry.announce("b")
    await registry.announce("a")
    assert await follower.read() == {"a", "b"}
    assert await follower.read() == set()
    waiting = asyncio.ensure_future(follower.read(block_ms=5_000))
    await registry.announce("c")
    assert await waiting == {"c"}


async def test_a_follower_of_an_empty_registry_hears_the_first_change(link, connection, raw):
    follower = RegistryFollower(connection)
    await follower.start()
    await Registry(link).announce("first")
    assert await follower.read() == {"first"}


async def test_a_follower_that_fell_behind_the_cap_knows_it(link, connection, raw, monkeypatch):
    monkeypatch.setattr(registry_module, "REGISTRY_ENTRIES_MAX", 10)
    registry, follower = Registry(link), RegistryFollower(connection)
    await registry.announce("first")
    await follower.start()
    assert not await follower.fell_behind()
    await registry.announce("second")
    assert not await follower.fell_behind()
    for number in range(500):  # the cap is approximate: streams are cut in whole nodes
        await registry.announce(str(number))
    assert raw.xlen(REGISTRY) < 400
    assert await follower.fell_behind()


# --- mailboxes ------------------------------------------------------------------------------------------


async def test_an_entry_is_discarded_from_the_mailbox_of_its_agent(link, raw):
    agent = new_id()
    keys = Keys(shard_of(agent, SHARDS))
    entry = raw.xadd(keys.mailbox(agent, Lane.LOW), {"m": "x"}).decode()
    raw.zadd(keys.expiry, {f"{keys.mailbox(agent, Lane.LOW)}|{entry}": 1})
    mailboxes = Mailboxes(link, shards=SHARDS)
    assert await mailboxes.discard(agent, Lane.LOW, entry)
    assert not await mailboxes.discard(agent, Lane.LOW, entry)
    assert not raw.exists(keys.expiry)


@one_server
async def test_a_link_opens_again_after_its_connection_was_lost(link, raw):
    first = await link.get()
    raw.client_kill_filter(_id=str(await first.send("CLIENT", "ID")))
    await first.closed
    assert await (await link.get()).send("PING") == b"PONG"


async def test_many_who_ask_a_link_at_once_share_one_connection(link):
    assert len({id(one) for one in await asyncio.gather(*(link.get() for _ in range(20)))}) == 1
