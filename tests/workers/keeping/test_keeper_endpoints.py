"""What workers find out about endpoints: written down once, told in the inbox once, known everywhere."""

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest
from keeper_rig import add_agents, agent_ids

from broker.store import agents as stored_agents
from broker.store import inbox as stored_inbox
from broker.store.inbox import InboxFilter
from broker.store.pool import Pool
from broker.streams.connection import Connection
from broker.streams.keys import REGISTRY, Keys
from schema.agent import Agent, EndpointFault
from schema.codec import encode
from schema.health import Finding, Verdict
from schema.times import to_ms
from workers.keeping.verdicts import Verdicts

KEYS = Keys(0)
DAY = 24 * 3_600_000


@pytest.fixture
async def agent(pool: Pool) -> Agent:
    [one] = agent_ids(1, shard=0, shards=1)
    await add_agents(pool, [one])
    changed = await stored_agents.change(
        pool,
        one,
        lambda agent: msgspec.structs.replace(agent, endpoint="http://a.example/", endpoint_since_ms=5_000),
    )
    assert changed is not None
    return changed[1]


@pytest.fixture
def keeping(pool: Pool) -> Verdicts:
    return Verdicts(pool, KEYS, disable_after_ms=5 * DAY)


async def say(connection: Connection, agent: Agent, finding: Finding, stage: int = 0, **more: int) -> None:
    now_ms = to_ms(datetime.now(UTC)) + stage
    verdict = Verdict(
        agent_id=agent.id,
        finding=finding,
        endpoint_since_ms=more.pop("endpoint_since_ms", 5_000),
        since_ms=more.pop("since_ms", 1_000),
        at_ms=now_ms,
        stage=stage,
    )
    await connection.send("XADD", KEYS.verdicts, "*", "v", encode(verdict))


async def inbox(pool: Pool, agent: Agent) -> list[tuple[str, dict[str, object]]]:
    page = await stored_inbox.page(pool, InboxFilter(agent_id=agent.id), now_ms=0)
    return [(one.message_type, msgspec.json.decode(one.content)) for one in page.items]


async def test_a_410_disables_tells_the_owner_and_announces_the_agent(
    keeping: Verdicts, connection: Connection, pool: Pool, agent: Agent
) -> None:
    await say(connection, agent, Finding.GONE)
    await say(connection, agent, Finding.GONE)
    assert await keeping.look(connection) == 2
    found = await stored_agents.get(pool, agent.id)
    assert found is not None
    assert (found.endpoint_fault, found.endpoint_disabled_ms > 0) == (EndpointFault.GONE, True)
    [(kind, content)] = await inbox(pool, agent)
    assert (kind, content["event"], content["reason"]) == ("error", "endpoint_disabled", "gone")
    told = await connection.send("XRANGE", REGISTRY, "-", "+")
    assert {fields[1].decode() for _, fields in told} == {agent.id}
    assert await connection.send("XLEN", KEYS.verdicts) == 0


async def test_warnings_come_once_each_however_often_they_are_said(
    keeping: Verdicts, connection: Connection, pool: Pool, agent: Agent
) -> None:
    for stage in (1, 1, 2, 3, 2, 3, 4):
        await say(connection, agent, Finding.FAILING, stage)
    await keeping.look(connection)
    said = await inbox(pool, agent)
    assert [(kind, content.get("percent")) for kind, content in said] == [
        ("warning", 50),
        ("warning", 70),
        ("warning", 90),
        ("error", None),
    ]
    found = await stored_agents.get(pool, agent.id)
    assert found is not None
    assert found.endpoint_fault is EndpointFault.FAILING


async def test_a_verdict_about_an_endpoint_of_before_changes_nothing(
    keeping: Verdicts, connection: Connection, pool: Pool, agent: Agent
) -> None:
    for finding in Finding:
        await say(connection, agent, finding, 4, endpoint_since_ms=4_999)
    await keeping.look(connection)
    assert await stored_agents.get(pool, agent.id) == agent
    assert await inbox(pool, agent) == []


async def test_two_keepers_at_once_tell_once(
    keeping: Verdicts, connection: Connection, pool: Pool, agent: Agent
) -> None:
    """One that lost its lease may still be at it, and one may have died between the commit and its end."""
    for stage in (1, 2, 3):
        await say(connection, agent, Finding.FAILING, stage)
    other = Verdicts(pool, KEYS, disable_after_ms=5 * DAY)
    await asyncio.gather(keeping.look(connection), other.look(connection))
    assert sorted(str(content["percent"]) for _, content in await inbox(pool, agent)) == ["50", "70", "90"]


async def test_what_is_no_verdict_or_of_nobody_stops_nothing(
    keeping: Verdicts, connection: Connection, pool: Pool, agent: Agent
) -> None:
    [stranger] = agent_ids(1, shard=0, shards=1)
    await connection.send("XADD", KEYS.verdicts, "*", "v", b"{nonsense")
    await say(connection, msgspec.structs.replace(agent, id=stranger), Finding.GONE)
    await say(connection, agent, Finding.GONE)
    assert await keeping.look(connection) == 3
    assert len(await inbox(pool, agent)) == 1
