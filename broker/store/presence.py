"""What agents say about themselves: changes of the columns of `agents` that presence shows."""

from typing import Final

from msgspec import UNSET

from broker.store.pool import Pool
from broker.store.statements import load
from schema.presence import PresenceUpdate
from schema.times import from_ms

_CHANGE: Final = load("presence_change")


async def change(pool: Pool, agent_id: str, update: PresenceUpdate, *, now_ms: int) -> bool:
    """Change what the update names and nothing else; tell whether the agent is there.

    Raises: StoreUnavailable.
    """
    fields = (update.status_message, update.accepts_work_orders, update.max_concurrent_jobs)
    pairs = [(field is not UNSET, None if field is UNSET else field) for field in fields]
    flat = [value for pair in pairs for value in pair]
    return await pool.fetch_value(_CHANGE, agent_id, *flat, from_ms(now_ms)) is not None
