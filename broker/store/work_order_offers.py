"""Offers of open work orders: to whom, once, and again as agents come and leases lapse.

Postgres picks the agents, those heard of last first: it holds capabilities, presence (seconds late) and who
takes whose orders, and an offer is no assignment, so a poor pick costs a message and nothing else.
"""

from typing import Final

from broker.store.pool import Connection
from broker.store.statements import load
from schema.limits import WORK_ORDER_OFFERED_AT_ONCE_MAX, WORK_ORDER_OFFERED_MAX
from schema.times import from_ms

OFFER_AGAIN_MS: Final = 2_000
OFFER_AGAIN_MS_MAX: Final = 60_000
"""How soon an open order is offered to agents that have become capable: from the first to the second, in
proportion to how long it has been waiting (a twentieth), so that old orders nobody wants cost little."""

_OFFER: Final = load("work_order_offer")


async def offer(connection: Connection, order_id: str, *, round_: int, now_ms: int) -> list[str]:
    """Offer an order to agents that can take it and have not been offered it in this round; return them."""
    rows = await connection.fetch(
        _OFFER, order_id, from_ms(now_ms), round_, WORK_ORDER_OFFERED_AT_ONCE_MAX, WORK_ORDER_OFFERED_MAX
    )
    return sorted(str(row["agent_id"]) for row in rows)


def next_offer_ms(free_since_ms: int, now_ms: int) -> int:
    """Return when to look again for agents to offer an order that has been free since then."""
    pause_ms = (now_ms - free_since_ms) // 20
    return now_ms + min(max(pause_ms, OFFER_AGAIN_MS), OFFER_AGAIN_MS_MAX)
