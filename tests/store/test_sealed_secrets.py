"""Secrets of agents in Postgres: encrypted where a key is set, moved to others, told where none opens."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from broker.store import agents
from broker.store.keys import StoredKey
from broker.store.pool import Pool, open_pool
from broker.store.sealing import counted, seal_all
from broker.transport.signature import new_secret
from schema.agent import SEALED, Agent
from schema.errors import Rejected
from schema.ids import new_id

OLD, NEW, OTHER = "o" * 32, "n" * 32, "x" * 32
NOW_MS = 1_800_000_000_000

With = Callable[..., Any]  # a coroutine function


@pytest.fixture
async def with_keys(database_url: str) -> AsyncIterator[With]:
    """Return a coroutine function that opens a pool with these keys."""
    async with AsyncExitStack() as stack:

        async def opened(*keys: str) -> Pool:
            pool = await open_pool(database_url, size=2, application_name="tests", secrets_keys=keys)
            stack.push_async_callback(pool.aclose)
            return pool

        yield opened


async def register(pool: Pool, **more: Any) -> Agent:
    agent_id = new_id()
    agent = Agent(id=agent_id, name=agent_id[-12:], signing_secret=new_secret(), created_ms=NOW_MS, **more)
    key = StoredKey(
        id=agent_id[-16:], agent_id=agent_id, scopes=(), hash=b"h", prefix="abk_", created_ms=NOW_MS
    )
    return await agents.register(pool, agent, key)


async def stored(pool: Pool) -> str:
    """Return the whole table as text: what somebody sees who steals it."""
    return "\n".join(str(tuple(row.values())) for row in await pool.fetch("SELECT * FROM agents"))


async def test_no_secret_stands_in_the_table_and_every_way_of_reading_gives_it(with_keys: With) -> None:
    pool = await with_keys(NEW)
    one = await register(
        pool, capabilities=("x",), endpoint="http://a.example/", previous_secret=new_secret()
    )
    assert "whsec_" not in await stored(pool)
    read = [
        await agents.get(pool, one.id),
        await agents.get(pool, one.name),
        *await agents.fetch(pool, [one.id]),
        *await agents.capable(pool, ["x"], limit=1),
        *[agent async for chunk in agents.iterate(pool) for agent in chunk],
        *(await agents.list_page(pool, agents.AgentFilter())).items,
    ]
    assert len(read) == 6
    assert {(agent.signing_secret, agent.previous_secret) for agent in read if agent is not None} == {
        (one.signing_secret, one.previous_secret)
    }
    changed = await agents.change(pool, one.id, lambda agent: agents.replace(agent, type="other"))
    assert changed is not None
    assert changed[1].signing_secret == one.signing_secret
    assert "whsec_" not in await stored(pool)


async def test_secrets_of_older_releases_and_older_keys_are_sealed_with_the_newest(with_keys: With) -> None:
    clear, old, both = await with_keys(), await with_keys(OLD), await with_keys(NEW, OLD)
    registered = [await register(pool) for pool in (clear, old, both) for _ in range(5)]
    assert (await stored(clear)).count("whsec_") == 5
    assert await counted(both) == {"": 5, old.sealer.current: 5, both.sealer.current: 5}
    done = await seal_all(both, batch_rows=2)
    assert (done.agents, done.unreadable) == (10, [])
    assert await counted(both) == {both.sealer.current: 15}
    only_new = await with_keys(NEW)
    found = {
        agent.id: agent.signing_secret for agent in await agents.fetch(only_new, [a.id for a in registered])
    }
    assert found == {agent.id: agent.signing_secret for agent in registered}
    assert (await seal_all(both)).agents == 0


async def test_what_no_key_opens_is_named_kept_and_not_pushed_to(with_keys: With) -> None:
    lost = await register(await with_keys(OTHER), endpoint="http://a.example/")
    pool = await with_keys(NEW)
    fine = await register(pool, endpoint="http://a.example/")
    done = await seal_all(pool)
    assert (done.agents, done.unreadable) == (0, [lost.id])
    found = {agent.id: agent for agent in await agents.fetch(pool, [lost.id, fine.id])}
    assert found[lost.id].is_sealed
    assert not found[lost.id].is_pushed_to
    assert found[fine.id].is_pushed_to
    # Whatever changes of it meanwhile, its secret is still there for the right key.
    await agents.change(pool, lost.id, lambda agent: agents.replace(agent, type="other"))
    again = await agents.get(await with_keys(NEW, OTHER), lost.id)
    assert again is not None
    assert again.signing_secret == lost.signing_secret


async def test_a_sealed_secret_moved_to_another_row_does_not_open(with_keys: With) -> None:
    pool = await with_keys(NEW)
    one, other = await register(pool), await register(pool)
    await pool.execute(
        "UPDATE agents SET signing_secret = (SELECT signing_secret FROM agents WHERE id = $1) WHERE id = $2",
        one.id,
        other.id,
    )
    found = await agents.get(pool, other.id)
    assert found is not None
    assert found.signing_secret.startswith(SEALED)


async def test_sealing_without_a_key_is_refused(with_keys: With) -> None:
    with pytest.raises(Rejected, match="SECRETS_KEY"):
        await seal_all(await with_keys())
