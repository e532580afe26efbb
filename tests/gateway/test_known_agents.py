"""What a gateway remembers of agents, and how it hears that it is no longer so."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
from cluster import async_client_of

from broker.gateway import known_agents
from broker.gateway.known_agents import KnownAgents
from broker.store import agents as stored_agents
from broker.store.keys import StoredKey
from broker.store.pool import Pool
from broker.streams.keys import REGISTRY
from broker.streams.link import Link
from broker.streams.registry import Registry
from schema.agent import Agent
from schema.ids import new_id


@pytest.fixture
async def registry(streams_url: str) -> AsyncIterator[Registry]:
    link = Link(streams_url, name="test")
    yield Registry(link)
    await link.close()


@pytest.fixture
async def known(pool: Pool, streams_url: str) -> AsyncIterator[KnownAgents]:
    """Agents as a gateway knows them that follows the registry."""
    one = KnownAgents(pool, streams_url)
    task = asyncio.create_task(one.run())
    async with asyncio.timeout(10):
        await one.following.wait()
    yield one
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def registered(pool: Pool, name: str) -> Agent:
    agent = Agent(id=new_id(), name=name, created_ms=1, updated_ms=1)
    key = StoredKey(id=new_id(), agent_id=agent.id, scopes=(), hash=b"", prefix="", created_ms=1)
    return await stored_agents.register(pool, agent, key)


async def renamed(pool: Pool, agent: Agent, name: str) -> None:
    await pool.execute("UPDATE agents SET name = $2 WHERE id = $1", agent.id, name)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1_000):
        if await holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to hold")


async def test_one_look_up_fills_id_and_name(pool: Pool, known: KnownAgents) -> None:
    agent = await registered(pool, "one")
    assert await known.find("one") == agent.id
    await pool.execute("DELETE FROM agents")
    for reference in (agent.id, agent.id.upper(), "one"):
        assert await known.record(reference) == agent
    known.forget(agent.id)
    for reference in (agent.id, agent.id.upper(), "one"):
        assert await known.record(reference) is None


async def test_an_agent_is_found_as_soon_as_it_is_registered(pool: Pool, known: KnownAgents) -> None:
    assert await known.find("late") is None
    agent = await registered(pool, "late")
    assert await known.find("late") == agent.id


async def test_an_announced_change_is_known_and_the_old_name_is_free(
    pool: Pool, known: KnownAgents, registry: Registry
) -> None:
    agent = await registered(pool, "old")
    assert await known.find("old") == agent.id
    await renamed(pool, agent, "new")
    await registry.announce(agent.id)

    async def heard() -> bool:
        record = await known.record(agent.id)
        return record is not None and record.name == "new"

    await until(heard)
    assert await known.find("old") is None
    other = await registered(pool, "old")
    assert await known.find("old") == other.id
    assert await known.find("new") == agent.id


async def test_without_word_of_changes_a_name_is_believed_for_a_second(pool: Pool, streams_url: str) -> None:
    alone = KnownAgents(pool, streams_url)
    agent = await registered(pool, "old")
    assert await alone.find("old") == agent.id
    await renamed(pool, agent, "new")
    assert await alone.find("old") == agent.id

    async def gone() -> bool:
        return await alone.find("old") is None

    await until(gone)


async def cut_off(streams_url: str, known: KnownAgents) -> None:
    """Let the follower lose its connection, and wait until it has noticed."""
    async with async_client_of(streams_url) as redis:
        for client in await redis.client_list():
            if client["name"] == "known-agents":
                await redis.client_kill_filter(_id=client["id"])
    for _ in range(1_000):
        if not known.following.is_set():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never noticed")


async def test_what_was_announced_while_the_connection_was_lost_is_heard_after_it(
    pool: Pool, known: KnownAgents, registry: Registry, streams_url: str
) -> None:
    changed, same = await registered(pool, "changed"), await registered(pool, "same")
    assert [await known.find(name) for name in ("changed", "same")] == [changed.id, same.id]
    await cut_off(streams_url, known)
    await renamed(pool, changed, "new")
    await pool.execute("UPDATE agents SET type = 'other' WHERE id = $1", same.id)
    await registry.announce(changed.id)
    async with asyncio.timeout(10):
        await known.following.wait()
    assert await known.find("changed") is None
    assert await known.record(same.id) == same  # still believed: nothing was said of it


async def test_who_fell_behind_forgets_everything(
    pool: Pool, known: KnownAgents, registry: Registry, streams_url: str
) -> None:
    agent = await registered(pool, "old")
    await registry.announce(agent.id)

    async def heard() -> bool:
        return known._cursor != "0-0"

    await until(heard)
    assert await known.find("old") == agent.id
    await cut_off(streams_url, known)
    await renamed(pool, agent, "new")
    async with async_client_of(streams_url) as redis:
        await redis.delete(REGISTRY)  # the announcement is gone with what the cap drops
    await registry.announce(new_id())
    async with asyncio.timeout(10):
        await known.following.wait()
    assert await known.find("old") is None


async def test_what_was_read_before_a_change_is_not_cached_after_it(
    pool: Pool, known: KnownAgents, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await registered(pool, "old")
    get = stored_agents.get

    async def slow(pool: Pool, reference: str) -> Agent | None:
        found = await get(pool, reference)
        await renamed(pool, agent, "new")
        known.forget(agent.id)
        return found

    monkeypatch.setattr(known_agents.stored_agents, "get", slow)
    assert await known.find("old") == agent.id
    monkeypatch.undo()
    assert await known.find("old") is None


async def test_a_full_cache_starts_anew(
    pool: Pool, known: KnownAgents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_agents, "CACHED_MAX", 2)
    agents = [await registered(pool, f"agent {n}") for n in range(3)]
    assert [await known.find(agent.name) for agent in agents] == [agent.id for agent in agents]
    await pool.execute("DELETE FROM agents")
    assert [await known.find(agent.name) for agent in agents] == [None, None, agents[2].id]
