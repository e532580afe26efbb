"""What was found out about an endpoint: its agent's row and the note in the inbox, in one transaction.

The note goes into the inbox and not onto the conveyor: it would be pushed to the very endpoint that fails. So
it is told exactly as often as the row changes, whatever dies in between.
"""

from typing import Final

from broker.core.health import judged, notice_of
from broker.store.agents import change_with, locked
from broker.store.pool import Connection, Pool
from broker.store.statements import load
from schema.agent import Agent
from schema.health import Verdict
from schema.message import Envelope

_NOTICE: Final = load("notice_insert")


async def apply(pool: Pool, verdict: Verdict, *, disable_after_ms: int) -> Agent | None:
    """Write a verdict down; return the agent as it is now, None where nothing has changed.

    Raises: StoreUnavailable, DataFault.
    """
    async with pool.transaction() as connection:
        before = await locked(connection, verdict.agent_id)
        if before is None:
            return None
        after = judged(before, verdict)
        if after == before:
            return None
        await change_with(connection, after)
        notice = notice_of(after, verdict, disable_after_ms=disable_after_ms)
        if notice is not None:
            await _tell(connection, notice)
    return after


async def _tell(connection: Connection, notice: Envelope) -> None:
    await connection.execute(
        _NOTICE,
        notice.id,
        notice.to_agent_id,
        notice.created_at,
        notice.expires_at,
        notice.priority,
        notice.message_type,
        bytes(notice.content).decode(),
        bytes(notice.metadata).decode(),
    )
