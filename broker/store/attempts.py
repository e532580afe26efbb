"""Delivery attempts of a message."""

from math import inf
from typing import Final

from broker.store.pool import Pool
from broker.store.statements import load
from broker.store.window import MARGIN_S
from schema.delivery import AttemptView
from schema.ids import made_ms

_OF_MESSAGE: Final = load("attempts_of_message")


async def of_message(pool: Pool, message_id: str) -> list[AttemptView]:
    """Return the attempts of a message, oldest first. Raises: StoreUnavailable.

    None lies before the message was made, so a UUIDv7 spares the partitions before its day.
    """
    made = made_ms(message_id)
    since_s = -inf if made is None else made / 1000 - MARGIN_S
    rows = await pool.fetch(_OF_MESSAGE, message_id, since_s)
    return [
        AttemptView(
            attempt=row["attempt"],
            status=row["status"],
            response_code=row["response_code"],
            response_body=row["response_body"],
            error=row["error"],
            duration_ms=row["duration_ms"],
            attempted_at=row["attempted_at"],
            round=row["round"],
            agent_id=None if row["agent_id"] is None else str(row["agent_id"]),
        )
        for row in rows
    ]
