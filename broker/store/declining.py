"""A recipient that will not do a message says so over HTTP: it ends, or goes on to another.

One that capabilities were matched for begins its next round without the agents that had it; the row and the
message in the outbox change in one transaction, so it is neither lost nor at two. Anything else fails as
`declined`, and its sender is told. The former agent's copy on the streams is of a round that is over: what
becomes of it changes nothing any more, and the caller drops it.
"""

from typing import Final

import msgspec
from msgspec import Struct

from broker.core.lifecycle import may_become
from broker.core.replay import next_round
from broker.store import bounces, dead_letters, messages, outbox
from broker.store.messages import StoredMessage
from broker.store.pool import Pool
from broker.store.statements import load
from schema.errors import IllegalTransition, NotFound
from schema.limits import REROUTES_MAX
from schema.message import Envelope, Reason, Status, Tried
from schema.times import from_ms

_TRIED: Final = load("message_tried")
_tried: Final = msgspec.json.Decoder(list[Tried])
_ALLOWED: Final = [status.value for status in Status if may_become(status, Status.FAILED)]


class Declined(Struct, frozen=True):
    """`former`: the message as the agent had it that declined. `again`: how it goes on; None: it failed."""

    former: StoredMessage
    again: Envelope | None


async def decline(pool: Pool, message_id: str, *, now_ms: int, age_ms_max: int) -> Declined:
    """Take a message from its recipient. Raises: NotFound, IllegalTransition, StoreUnavailable."""
    async with pool.transaction() as connection:
        arguments = (_ALLOWED, Status.FAILED.value, None, Reason.DECLINED.value, now_ms)
        former = await messages.end(connection, message_id, *arguments)
        if former is not None:
            created_at = former.view.created_at
            again = None
            [letter] = await dead_letters.lock(connection, [message_id])
            if letter.chosen and former.view.to_agent_id is not None:
                tried = _tried.decode(await connection.fetchval(_TRIED, message_id, created_at))
                said = Tried(
                    agent_id=former.view.to_agent_id, reason=Reason.DECLINED.value, attempts=0, at_ms=now_ms
                )
                again = _again(letter, [*tried, said], now_ms=now_ms, age_ms_max=age_ms_max)
            if again is None:
                await bounces.tell(connection, [(message_id, created_at)])
            else:
                await dead_letters.restart(connection, [again])
                await outbox.add(connection, again)
            return Declined(former, again)
    stored = await messages.find(pool, message_id)
    if stored is None:
        raise NotFound(f"no message {message_id}")
    if stored.view.status != Status.FAILED.value:
        raise IllegalTransition(f"a {stored.view.status} message cannot be declined")
    return Declined(stored, None)


def _again(
    letter: dead_letters.WholeLetter, tried: list[Tried], *, now_ms: int, age_ms_max: int
) -> Envelope | None:
    """Return the message as it is routed anew; None where it ends."""
    if len(tried) > REROUTES_MAX:
        return None
    again = next_round(
        letter.letter,
        requirements=letter.requirements,
        chosen=letter.chosen,
        now=from_ms(now_ms),
        age_ms_max=age_ms_max,
    )
    if not isinstance(again, Envelope) or again.to_agent_id is not None:
        return None
    again.tried = tried
    return again
