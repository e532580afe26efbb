"""Work orders as they are read: one, its history, an agent's list, how many an agent works on.

Changes are made in `broker.store.work_order_changes`, and only there.
"""

from typing import Final

from broker.store.pool import Pool
from broker.store.statements import load

_ACTIVE: Final = load("work_orders_active")


async def active_jobs(pool: Pool, agent_id: str) -> int:
    """Return how many orders the agent has accepted and not finished. Raises: StoreUnavailable."""
    return int(await pool.fetch_value(_ACTIVE, agent_id))
