"""Agents: the registry every directory is filled from.

The row is the truth; who changes it announces the agent on the registry stream afterwards.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from secrets import token_bytes
from typing import Final

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from broker.core.sealing import NONCE_BYTES, Sealer
from broker.store.keys import StoredKey, insert_with
from broker.store.page import Page, cursor_of, position_of
from broker.store.pool import Connection, Pool
from broker.store.statements import load
from schema.agent import SEALED, Agent, AgentStatus, ContactPolicy, EndpointFault, RetrySchedule
from schema.errors import Conflict, NameTaken
from schema.ids import is_id
from schema.limits import PAGE_ROWS_DEFAULT
from schema.times import from_ms, to_ms

_INSERT: Final = load("agent_insert")
_UPDATE: Final = load("agent_update")
_LOCKED: Final = load("agent_locked")
_BY_ID: Final = load("agent_by_id")
_BY_NAME: Final = load("agent_by_name")
_BY_IDS: Final = load("agents_by_ids")
_AFTER: Final = load("agents_after")
_LIST: Final = load("agents_list")
_CAPABLE: Final = load("agents_capable")
_COUNTED: Final = load("capabilities_counted")
_HEARTBEATS: Final = load("agents_heartbeats")

FIRST_ID: Final = "00000000-0000-0000-0000-000000000000"


class AgentFilter(Struct, kw_only=True, frozen=True):
    """What to list. `capabilities`: all of them. `heard_since_ms`: heartbeat stored since (None: any).

    `limit` is the caller's to bound.
    """

    status: AgentStatus | None = None
    type: str | None = None
    capabilities: tuple[str, ...] = ()
    heard_since_ms: int | None = None
    limit: int = PAGE_ROWS_DEFAULT
    cursor: str | None = None


async def register(pool: Pool, agent: Agent, key: StoredKey) -> Agent:
    """Store a new agent and its key together. Raises: NameTaken, Conflict (the id), StoreUnavailable."""
    async with pool.transaction() as connection:
        try:
            await connection.execute(_INSERT, *_columns(_sealed(agent, pool.sealer)))
        except asyncpg.UniqueViolationError as error:
            raise _taken(agent, error) from None
        await insert_with(connection, key)
    return agent


async def update(pool: Pool, agent: Agent) -> bool:
    """Replace all but the heartbeat and the time of creation; tell whether the agent is there.

    Raises: NameTaken, StoreUnavailable.
    """
    async with pool.connection() as connection:
        try:
            found = await connection.fetchval(_UPDATE, *_columns(_sealed(agent, pool.sealer)))
        except asyncpg.UniqueViolationError as error:
            raise _taken(agent, error) from None
    return found is not None


async def change(pool: Pool, agent_id: str, changed: Callable[[Agent], Agent]) -> tuple[Agent, Agent] | None:
    """Replace an agent by what `changed` makes of it; return what it was and what it is, None if gone.

    The row is locked in between, so two changes at once both survive. `changed` may raise: nothing happens
    then. Raises: NameTaken, StoreUnavailable, DataFault.
    """
    async with pool.transaction() as connection:
        found = await locked(connection, agent_id)
        if found is None:
            return None
        before = _opened(found, pool.sealer)
        after = changed(before)
        if after != before:
            try:
                await change_with(connection, _sealed(after, pool.sealer))
            except asyncpg.UniqueViolationError as error:
                raise _taken(after, error) from None
    return before, after


async def locked(connection: Connection, agent_id: str) -> Agent | None:
    """Return an agent, its row locked until the transaction on this connection ends; None if gone. Its
    secrets are as they are stored: sealed, as `change_with` takes them."""
    row = await connection.fetchrow(_LOCKED, agent_id)
    return None if row is None else _agent(row)


async def change_with(connection: Connection, agent: Agent) -> None:
    """Replace an agent that is locked, in the transaction that is open on this connection."""
    await connection.execute(_UPDATE, *_columns(agent))


async def get(pool: Pool, ref: str) -> Agent | None:
    """Return an agent by UUID or name, or None. Raises: StoreUnavailable."""
    row = await pool.fetch_row(_BY_ID, ref.lower()) if is_id(ref.lower()) else None
    if row is None:
        row = await pool.fetch_row(_BY_NAME, ref)
    return None if row is None else _opened(_agent(row), pool.sealer)


async def fetch(pool: Pool, ids: Iterable[str]) -> list[Agent]:
    """Return those of the agents that there are. Raises: StoreUnavailable."""
    return [_opened(_agent(row), pool.sealer) for row in await pool.fetch(_BY_IDS, list(ids))]


async def capable(pool: Pool, capabilities: Sequence[str], *, limit: int) -> list[Agent]:
    """Return agents that have all of the capabilities, `limit` at most. Raises: StoreUnavailable."""
    rows = await pool.fetch(_CAPABLE, list(capabilities), limit)
    return [_opened(_agent(row), pool.sealer) for row in rows]


async def count_having(
    pool: Pool, capabilities: Sequence[str], *, at_most: int
) -> tuple[int, dict[str, int]]:
    """Return how many agents there are, and how many have each capability, none counted beyond `at_most`.

    Raises: StoreUnavailable.
    """
    counts = {
        row["capability"]: row["agents"] for row in await pool.fetch(_COUNTED, list(capabilities), at_most)
    }
    return counts.pop(None), counts


async def iterate(pool: Pool, chunk: int = 5_000) -> AsyncIterator[list[Agent]]:
    """Yield every agent, in chunks, each a query of its own: no transaction stays open in between.

    Raises: StoreUnavailable.
    """
    last = FIRST_ID
    while rows := await pool.fetch(_AFTER, last, chunk):
        yield [_opened(_agent(row), pool.sealer) for row in rows]
        last = str(rows[-1]["id"])


async def list_page(pool: Pool, wanted: AgentFilter) -> Page[Agent]:
    """Return a page in the order of ids, which is that of registration. Raises: as `messages.list_page`."""
    rows = await pool.fetch(
        _LIST,
        FIRST_ID if wanted.cursor is None else position_of(wanted.cursor, str),
        None if wanted.status is None else wanted.status.value,
        wanted.type,
        wanted.capabilities,
        None if wanted.heard_since_ms is None else from_ms(wanted.heard_since_ms),
        wanted.limit + 1,
    )
    agents = [_opened(_agent(row), pool.sealer) for row in rows[: wanted.limit]]
    more = len(rows) > wanted.limit and bool(agents)
    return Page(agents, cursor_of(agents[-1].id) if more else None)


async def save_heartbeats(pool: Pool, heard_ms: Mapping[str, int]) -> None:
    """Store when agents were last heard of, never going backwards. Raises: StoreUnavailable."""
    if heard_ms:
        # One order for everybody, so that two writers cannot deadlock.
        ids = sorted(heard_ms)
        await pool.execute(_HEARTBEATS, ids, [heard_ms[agent_id] for agent_id in ids])


def _taken(agent: Agent, error: asyncpg.UniqueViolationError) -> Conflict:
    if error.constraint_name == "agents_name_key":
        return NameTaken(f"the name {agent.name!r} is taken", field="name")
    return Conflict(f"there is an agent {agent.id} already", field="id")


def _sealed(agent: Agent, sealer: Sealer) -> Agent:
    """Return the agent as it is stored."""
    if not sealer.current:
        return agent
    return replace(
        agent,
        signing_secret=sealer.seal(agent.signing_secret, owner=agent.id, nonce=token_bytes(NONCE_BYTES)),
        previous_secret=sealer.seal(agent.previous_secret, owner=agent.id, nonce=token_bytes(NONCE_BYTES)),
    )


def _opened(agent: Agent, sealer: Sealer) -> Agent:
    """Return a stored agent with its secrets, sealed still where the key is not here."""
    if not (agent.signing_secret.startswith(SEALED) or agent.previous_secret.startswith(SEALED)):
        return agent
    return replace(
        agent,
        signing_secret=sealer.open(agent.signing_secret, owner=agent.id),
        previous_secret=sealer.open(agent.previous_secret, owner=agent.id),
    )


def _columns(agent: Agent) -> tuple[object, ...]:
    """Return $1..$31 of agent_insert.sql and agent_update.sql."""
    return (
        agent.id,
        agent.name,
        agent.type,
        agent.endpoint,
        agent.capabilities,
        agent.status.value,
        agent.max_concurrent_jobs,
        agent.concurrency,
        agent.accepts,
        agent.allow_from,
        agent.ordered,
        agent.retry_schedule.value,
        agent.signing_secret,
        agent.status_message,
        agent.accepts_work_orders,
        agent.contact_policy.value,
        _moment(agent.deleted_ms),
        _moment(agent.drains_until_ms),
        agent.previous_secret or None,
        _moment(agent.previous_secret_until_ms),
        _moment(agent.endpoint_since_ms),
        None if agent.endpoint_fault is None else agent.endpoint_fault.value,
        _moment(agent.endpoint_disabled_ms),
        _moment(agent.endpoint_failing_ms),
        agent.endpoint_warned,
        agent.max_pushes_per_second,
        agent.inbox_messages_max,
        agent.inbox_bytes_max,
        _moment(agent.heartbeat_ms),
        from_ms(agent.created_ms),
        from_ms(agent.updated_ms),
    )


def _agent(row: asyncpg.Record) -> Agent:
    fault = row["endpoint_disabled_reason"]
    return Agent(
        id=str(row["id"]),
        name=row["name"],
        type=row["type"],
        endpoint=row["endpoint"],
        capabilities=tuple(row["capabilities"]),
        status=AgentStatus(row["status"]),
        max_concurrent_jobs=row["max_concurrent_jobs"],
        concurrency=row["concurrency"],
        accepts=None if row["accepts"] is None else tuple(row["accepts"]),
        allow_from=None if row["allow_from"] is None else tuple(row["allow_from"]),
        ordered=row["ordered"],
        retry_schedule=RetrySchedule(row["retry_schedule"]),
        signing_secret=row["signing_secret"],
        status_message=row["status_message"],
        accepts_work_orders=row["accepts_work_orders"],
        contact_policy=ContactPolicy(row["contact_policy"]),
        deleted_ms=_milliseconds(row["deleted_at"]),
        drains_until_ms=_milliseconds(row["drains_until"]),
        previous_secret=row["previous_secret"] or "",
        previous_secret_until_ms=_milliseconds(row["previous_secret_until"]),
        endpoint_since_ms=_milliseconds(row["endpoint_since"]),
        endpoint_fault=None if fault is None else EndpointFault(fault),
        endpoint_disabled_ms=_milliseconds(row["endpoint_disabled_at"]),
        endpoint_failing_ms=_milliseconds(row["endpoint_failing_since"]),
        endpoint_warned=row["endpoint_warned"],
        max_pushes_per_second=row["max_pushes_per_second"],
        inbox_messages_max=row["inbox_messages_max"],
        inbox_bytes_max=row["inbox_bytes_max"],
        heartbeat_ms=_milliseconds(row["heartbeat_at"]),
        created_ms=to_ms(row["created_at"]),
        updated_ms=to_ms(row["updated_at"]),
    )


def _moment(at_ms: int) -> datetime | None:
    return from_ms(at_ms) if at_ms else None


def _milliseconds(moment: datetime | None) -> int:
    return 0 if moment is None else to_ms(moment)
