"""The directory that follows the registry, on a real Redis and a real Postgres."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from worker_rig import until

from broker.core import keys as key_format
from broker.store import agents as stored_agents
from broker.store.keys import StoredKey
from broker.store.pool import Pool
from broker.streams.connection import open_connection
from broker.streams.keys import REGISTRY
from broker.streams.link import Link
from broker.streams.presence import Presence
from broker.streams.registry import Registry
from schema.agent import Agent
from schema.ids import new_id
from workers.live_directory import LiveDirectory


@pytest.fixture
async def link(streams_url: str) -> AsyncIterator[Link]:
    opened = Link(streams_url, name="test")
    yield opened
    await opened.close()


@pytest.fixture
def live(pool: Pool, streams_url: str, link: Link) -> LiveDirectory:
    return LiveDirectory(pool, streams_url, Presence(link, shards=2), silent_after_ms=60_000)


async def registered(pool: Pool, name: str) -> Agent:
    agent = Agent(id=new_id(), name=name, created_ms=1, updated_ms=1)
    minted = key_format.mint(new_id().encode()[-8:], new_id().encode()[:32])
    key = StoredKey(id=minted.id, agent_id=agent.id, scopes=(), hash=b"h", prefix=minted.prefix, created_ms=1)
    return await stored_agents.register(pool, agent, key)


async def forget_the_registry(url: str, link: Link) -> None:
    """Do what the cap does to a reader that is too slow: drop what it has not read, and more words follow."""
    async with await open_connection(url, name="test") as connection:
        await Registry(link).announce("somebody")
        await connection.send("XTRIM", REGISTRY, "MAXLEN", 0)
        await Registry(link).announce("somebody else")


def known(live: LiveDirectory) -> set[str]:
    return {agent.name for agent in live.directory.agents()}


async def changed_behind_its_back(pool: Pool, url: str, link: Link) -> None:
    """Register one, change one, delete one, and lose every word of it."""
    stays, goes = await stored_agents.get(pool, "stays"), await stored_agents.get(pool, "goes")
    assert stays is not None
    assert goes is not None
    await registered(pool, "comes")
    await stored_agents.update(pool, replace(stays, name="stays, renamed", updated_ms=2))
    await stored_agents.update(pool, replace(goes, deleted_ms=2, updated_ms=2))
    await forget_the_registry(url, link)


async def prepared(live: LiveDirectory, pool: Pool, link: Link) -> None:
    for name in ("stays", "goes"):
        agent = await registered(pool, name)
        await Registry(link).announce(agent.id)
    await live.load()
    assert known(live) == {"stays", "goes"}


async def test_a_reload_takes_over_who_came_who_changed_and_who_is_gone(live, pool, link, streams_url):
    await prepared(live, pool, link)
    told: dict[str, Agent | None] = {}
    live.on_change.append(told.__setitem__)
    gone = await stored_agents.get(pool, "goes")
    await changed_behind_its_back(pool, streams_url, link)
    async with following(live):
        await until(lambda: known(live) == {"comes", "stays, renamed"})
    assert gone is not None
    assert told[gone.id] is None


async def test_a_registry_that_was_emptied_is_no_news_but_a_reason_to_read_everything(
    live, pool, link, streams_url
):
    """FLUSHALL, or a Redis that came back without its file: what was announced and not read is gone."""
    await prepared(live, pool, link)
    await registered(pool, "comes")
    async with await open_connection(streams_url, name="test") as connection:
        await connection.send("FLUSHALL")
    await live.refresh()
    assert known(live) == {"stays", "goes", "comes"}
    # Once is enough: nothing was read since.
    await registered(pool, "later")
    await live.refresh()
    assert "later" not in known(live)


async def test_a_refresh_that_fell_behind_reads_everything(live, pool, link, streams_url):
    await prepared(live, pool, link)
    await changed_behind_its_back(pool, streams_url, link)
    await live.refresh()
    assert known(live) == {"comes", "stays, renamed"}


class following:  # noqa: N801  # reads as a verb where it is used
    """Run the directory while the context is open."""

    def __init__(self, live: LiveDirectory) -> None:
        self._live = live

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._live.run())

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
