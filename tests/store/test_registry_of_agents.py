"""Agents and their keys."""

import pytest

from broker.store import agents, keys
from broker.store.agents import AgentFilter
from broker.store.keys import StoredKey
from broker.store.pool import Pool
from schema.agent import Agent, AgentStatus, RetrySchedule
from schema.errors import Conflict, DataFault, NameTaken, Rejected
from schema.ids import new_id


def agent(name: str, **fields) -> Agent:
    return Agent(id=new_id(), name=name, created_ms=1_000, updated_ms=1_000, **fields)


def key(owner: Agent | None) -> StoredKey:
    return StoredKey(
        id=new_id(),
        agent_id=owner.id if owner else None,
        scopes=("send", "read"),
        hash=b"\x01\x02",
        prefix="abk_12",
        created_ms=1_000,
        expires_ms=2_000,
    )


async def registered(pool: Pool, *made: Agent) -> list[Agent]:
    return [await agents.register(pool, one, key(one)) for one in made]


FULL = {
    "type": "scraper",
    "endpoint": "https://example.com/hook",
    "capabilities": ("scrape", "honda"),
    "status": AgentStatus.PAUSED,
    "max_concurrent_jobs": 3,
    "concurrency": 2,
    "accepts": ("task",),
    "allow_from": (),
    "ordered": True,
    "retry_schedule": RetrySchedule.WEBHOOK,
    "signing_secret": "whsec_x",
    "heartbeat_ms": 5_000,
}


async def test_an_agent_reads_back_by_id_and_by_name(any_pool: Pool) -> None:
    (full,) = await registered(any_pool, agent("full", **FULL))
    (bare,) = await registered(any_pool, agent("bare"))
    for one in (full, bare):
        assert await agents.get(any_pool, one.id) == one
        assert await agents.get(any_pool, one.id.upper()) == one
        assert await agents.get(any_pool, one.name) == one
    assert await agents.get(any_pool, "nobody") is None
    assert await agents.get(any_pool, new_id()) is None
    assert await agents.fetch(any_pool, [bare.id, new_id()]) == [bare]


async def test_a_name_is_given_once_and_nothing_is_stored_with_a_refusal(pool: Pool) -> None:
    (first,) = await registered(pool, agent("one"))
    other = agent("one")
    other_key = key(other)
    with pytest.raises(NameTaken):
        await agents.register(pool, other, other_key)
    assert await keys.find(pool, other_key.id) is None
    with pytest.raises(Conflict):
        await agents.register(pool, Agent(id=first.id, name="two"), key(first))


async def test_an_agent_is_replaced_but_for_its_time_of_creation(pool: Pool) -> None:
    (before,) = await registered(pool, agent("before", heartbeat_ms=9_000))
    await registered(pool, agent("taken"))
    after = Agent(id=before.id, name="after", created_ms=7_000, updated_ms=8_000, **(FULL))
    assert await agents.update(pool, after)
    found = await agents.get(pool, "after")
    assert found is not None
    assert (found.created_ms, found.updated_ms, found.heartbeat_ms) == (1_000, 8_000, 9_000)
    assert not await agents.update(pool, agent("unknown"))
    with pytest.raises(NameTaken):
        await agents.update(pool, Agent(id=before.id, name="taken", created_ms=1, updated_ms=1))


async def test_every_agent_comes_by_once_in_chunks(pool: Pool) -> None:
    made = await registered(pool, *(agent(f"a{n}") for n in range(7)))
    chunks = [chunk async for chunk in agents.iterate(pool, chunk=3)]
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert {one.id for chunk in chunks for one in chunk} == {one.id for one in made}


async def test_pages_hold_what_was_asked_for_and_lead_to_the_end(pool: Pool) -> None:
    made = await registered(
        pool,
        agent("a", type="x", capabilities=("one", "two"), heartbeat_ms=10_000),
        agent("b", type="x", capabilities=("two",), status=AgentStatus.PAUSED),
        agent("c", type="y", capabilities=("one", "two", "three")),
    )

    async def names(**wanted) -> list[str]:
        return [one.name for one in (await agents.list_page(pool, AgentFilter(**wanted))).items]

    assert await names() == ["a", "b", "c"]
    assert await names(type="x") == ["a", "b"]
    assert await names(status=AgentStatus.PAUSED) == ["b"]
    assert await names(capabilities=("one", "two")) == ["a", "c"]
    assert await names(heard_since_ms=10_000) == ["a"]
    first = await agents.list_page(pool, AgentFilter(limit=2))
    second = await agents.list_page(pool, AgentFilter(limit=2, cursor=first.cursor))
    assert [*first.items, *second.items] == made
    assert second.cursor is None
    for junk in ("nonsense", "e30", "%%%"):
        with pytest.raises(Rejected):
            await agents.list_page(pool, AgentFilter(cursor=junk))


async def test_heartbeats_only_move_forward(pool: Pool) -> None:
    one, other = await registered(pool, agent("one", heartbeat_ms=5_000), agent("other"))
    await agents.save_heartbeats(pool, {one.id: 4_000, other.id: 6_000, new_id(): 1})
    await agents.save_heartbeats(pool, {})
    heard = {found.name: found.heartbeat_ms for found in await agents.fetch(pool, [one.id, other.id])}
    assert heard == {"one": 5_000, "other": 6_000}


async def test_a_key_reads_back_and_an_id_is_given_once(pool: Pool) -> None:
    for stored in (key(None), key((await registered(pool, agent("owner")))[0])):
        await keys.insert(pool, stored)
        assert await keys.find(pool, stored.id) == stored
        with pytest.raises(DataFault):
            await keys.insert(pool, stored)
    assert await keys.find(pool, "unknown") is None
