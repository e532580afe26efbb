"""Very many agents at once: the rows and the words that registering each over HTTP would leave.

One request per agent takes longer than what is to be measured, so rows are copied, with the values the store
itself would write, and every agent is announced on the registry stream like one that was just registered. A
sample is registered over HTTP beside it, for the time that takes.
"""

from collections.abc import Callable, Iterable, Sequence
from secrets import token_bytes
from typing import Final

from msgspec import structs

from broker.client.http import AgentClient
from broker.core import keys
from broker.gateway.call import AGENT_SCOPES
from broker.store.agents import _columns  # what the store writes of an agent, in the order of its statements
from broker.store.pool import Pool
from broker.store.statements import load
from broker.streams.connection import Connection
from broker.streams.keys import REGISTRY
from broker.transport.signature import new_secret
from schema.agent import Agent
from schema.ids import new_id
from schema.limits import REGISTRY_ENTRIES_MAX
from schema.times import from_ms

ROWS: Final = 5_000
"""Rows a statement, and words a round trip."""
JOBS_MAX: Final = 10_000
"""Nobody is ever too busy: what is measured is not parking."""
_AGENT: Final = [name.strip() for name in load("agent_columns").split(",")]
_KEY: Final = [name.strip() for name in load("key_columns").split(",")]
_MOVE: Final = """
UPDATE agents SET endpoint = moved.endpoint, updated_at = now()
FROM unnest($1::uuid[], $2::text[]) AS moved (id, endpoint)
WHERE agents.id = moved.id
"""

EndpointOf = Callable[[int], str | None]


def make_agents(
    count: int, *, name: str, endpoint: EndpointOf, capabilities: Callable[[int], Sequence[str]], now_ms: int
) -> list[Agent]:
    """Return so many new agents; `endpoint` and `capabilities` by their numbers."""
    return [
        Agent(
            id=new_id(),
            name=f"{name}-{number}",
            endpoint=endpoint(number),
            capabilities=tuple(capabilities(number)),
            max_concurrent_jobs=JOBS_MAX,
            signing_secret=new_secret(),
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        for number in range(count)
    ]


async def register_rows(
    pool: Pool, connection: Connection, agents: Sequence[Agent], *, pepper: str
) -> list[str]:
    """Store agents with a key each, announce them, return the keys. Raises: BrokerError."""
    minted = [keys.mint(token_bytes(keys.KEY_ID_BYTES), token_bytes(keys.SECRET_BYTES)) for _ in agents]
    scopes = sorted(scope.value for scope in AGENT_SCOPES)
    for start in range(0, len(agents), ROWS):
        batch = agents[start : start + ROWS]
        rows = [
            (
                *(key.id, agent.id, scopes, keys.digest(pepper.encode(), key.text), key.prefix),
                *(from_ms(agent.created_ms), None, None, None),
            )
            for agent, key in zip(batch, minted[start : start + ROWS], strict=True)
        ]
        async with pool.transaction() as store:
            records = [_columns(agent) for agent in batch]
            await store.copy_records_to_table("agents", records=records, columns=_AGENT)
            await store.copy_records_to_table("agent_keys", records=rows, columns=_KEY)
        await announce(connection, [agent.id for agent in batch])
    async with pool.connection() as store:
        await store.execute("ANALYZE agents, agent_keys")
    return [key.text for key in minted]


async def move(
    pool: Pool, connection: Connection, agents: Sequence[Agent], endpoint: EndpointOf
) -> list[Agent]:
    """Give agents other endpoints (None: they pull from now on), announce that, return them as they are."""
    moved = [structs.replace(agent, endpoint=endpoint(number)) for number, agent in enumerate(agents)]
    for start in range(0, len(moved), ROWS):
        batch = moved[start : start + ROWS]
        async with pool.transaction() as store:
            await store.execute(_MOVE, [one.id for one in batch], [one.endpoint for one in batch])
        await announce(connection, [one.id for one in batch])
    return moved


async def announce(connection: Connection, agent_ids: Iterable[str]) -> None:
    """Tell every directory that these agents changed."""
    await connection.send_many(
        [
            ("XADD", REGISTRY, "MAXLEN", "~", REGISTRY_ENTRIES_MAX, "*", "id", agent_id)
            for agent_id in agent_ids
        ]
    )


async def register_over_http(client: AgentClient, count: int, *, name: str) -> None:
    """Register so many agents one after the other, as somebody would who has so many."""
    for number in range(count):
        await client.register(f"{name}-{number}", max_concurrent_jobs=JOBS_MAX)
