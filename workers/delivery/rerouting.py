"""Messages that capabilities chose an agent for, and that agent does not manage or does not want: to another.

Decides whether a message is routed anew and what it is then; the settler moves it, the router chooses. An
agent that declines passes a message on at once, one whose attempts fail after REROUTE_ATTEMPTS of them or
when it would fail for good; but only while somebody else is there who could take it, else the agent keeps its
whole schedule. At most REROUTES_MAX times: the last one's schedule decides.

Who was named by the sender is never replaced: only messages that name capabilities come through here.
"""

from collections.abc import Callable, Collection
from typing import Final

from msgspec import UNSET, Raw, Struct

from broker.core.directory import Directory
from schema.codec import decode_stored_envelope
from schema.ledger import Event, EventKind
from schema.limits import REROUTE_ATTEMPTS, REROUTES_MAX
from schema.message import Envelope, Reason, Status, Tried
from workers.delivery.items import Item

Another = Callable[[Envelope, Collection[str]], bool]
"""Tells whether somebody beside these agents could take a message now."""

_PASSED_ON: Final = frozenset(
    reason.value
    for reason in (
        *(Reason.EXHAUSTED, Reason.REJECTED, Reason.GONE, Reason.DECLINED),
        *(Reason.ENDPOINT_INVALID, Reason.ENDPOINT_DISABLED, Reason.RECIPIENT_DISABLED),
    )
)
"""Ends that are one agent's, not the message's."""


class Reroute(Struct):
    """What becomes of a message that goes to another: how it is routed anew, and what the ledger says."""

    message: Envelope
    event: Event


class Rerouting:
    """Judges for the agents of one shard."""

    def __init__(self, another: Another) -> None:
        self._another = another

    def judge(self, item: Item, event: Event) -> Reroute | None:
        """Return how the message of an item goes on elsewhere; None: `event`, how it ended here, stands."""
        if not item.requirements:
            return None
        why = _why(item, event)
        if why is None:
            return None
        message = decode_stored_envelope(item.body)
        tried = message.tried if isinstance(message.tried, list) else []
        agent_id = item.mailbox.endpoint.agent.id
        if len(tried) >= REROUTES_MAX or not self._another(
            message, {agent_id, *(one.agent_id for one in tried)}
        ):
            return None
        used = item.attempts if event.attempt is None else event.attempt.number
        message.tried = [*tried, Tried(agent_id=agent_id, reason=why, attempts=used, at_ms=event.at_ms)]
        message.to_agent_id = None
        return Reroute(message, _still_pending(event, item))


def another_in(directory: Directory, now_ms: Callable[[], int]) -> Another:
    """Return who asks a directory. Bounded: it looks at one agent more than are left out."""

    def another(message: Envelope, but: Collection[str]) -> bool:
        if not isinstance(message.requirements, list):
            return False
        required = tuple(message.requirements)
        pool = directory.pool(required, message.message_type, message.from_agent_id, now_ms())
        out = {*but, message.from_agent_id}
        return any(directory.by_slot[slot].id not in out for slot in pool.slots[: len(out) + 1])

    return another


def _why(item: Item, event: Event) -> str | None:
    """Return why an agent does not get another try; None where it does, or the message is at its end."""
    if event.status is Status.FAILED:
        return event.reason if event.reason in _PASSED_ON else None
    attempt = event.attempt
    if event.kind is EventKind.ATTEMPTED and attempt is not None:
        return Reason.EXHAUSTED.value if attempt.number - item.attempts_before >= REROUTE_ATTEMPTS else None
    return None


def _still_pending(event: Event, item: Item) -> Event:
    """Return the event of an attempt after which the message waits again, for whoever is chosen."""
    return Event(
        kind=EventKind.ATTEMPTED,
        id=event.id,
        at_ms=event.at_ms,
        # Whole: what told the record of it first may still be on its way there, behind this.
        message=Raw(item.body),
        to=event.to,
        attempt=event.attempt,
        route=UNSET if item.route is None else Raw(item.route),
        round=event.round,
    )
