"""Turns placements into one route call, and hands what was moved to the delivery owner of the shard.

Everything here happens between two turns of the loop: what is decided about a mailbox when the call is sent
still holds when it is sent, and `Mailbox.coming` keeps the mailbox open until the call is answered.
"""

from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import UNSET, Struct

from broker.core.parking import Signature
from broker.streams.clock import ServerClock
from broker.streams.connection import Connection, Reply
from broker.streams.keys import ARRIVED, Keys
from broker.streams.lanes import IngressEntry
from broker.streams.moves import LANE_NUMBER, Move, RouteBatch, call_route
from broker.telemetry import logs, metrics
from schema.codec import encode
from schema.errors import BrokerError
from schema.ledger import Event, EventKind
from schema.limits import QUARANTINED_BYTES_MAX
from schema.message import lane_of
from schema.times import to_ms
from workers.delivery.delivery import Delivery
from workers.delivery.items import Mailbox
from workers.placing import Placement, Way, event_of

Placed = list[tuple[IngressEntry, list[Placement]]]

_COUNTED: Final = {
    way: metrics.MESSAGES.child(stage="route", outcome=outcome)
    for way, outcome in {
        Way.MAILBOX: "routed",
        Way.FORWARD: "forwarded",
        Way.PARKED: "parked",
        Way.LATER: "parked",
        Way.ENDED: "failed",
        Way.QUARANTINED: "quarantined",
        Way.DUPLICATE: "duplicate",
    }.items()
}


class _Moving(Struct, gc=False):
    """A move under way. `told`: its ledger event goes with the call."""

    placement: Placement
    body: bytes = b""
    waiter: str = ""
    told: bool = True
    mailbox: Mailbox | None = None


class Mover:
    """Makes the route calls of one shard. `delivery` gives its delivery owner, if this process is it."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        *,
        owner: str,
        window_ms: int,
        clock: ServerClock,
        delivery: Callable[[], Delivery | None],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._owner = owner
        self._window_ms = window_ms
        self._clock = clock
        self._delivery = delivery

    def move(self, placed: Placed, on_moved: Callable[[BrokerError | None], None]) -> None:
        """Send one call for all placements; `on_moved` gets the error, or None when Redis has moved them."""
        now_ms = self._clock.now_ms()
        delivery = self._delivery()
        batch = RouteBatch()
        moving: list[_Moving] = []
        for entry, placements in placed:
            batch.done[entry.lane].append(entry.id)
            for index, placement in enumerate(placements):
                if placement.way is Way.DUPLICATE:
                    _COUNTED[Way.DUPLICATE].inc()
                elif placement.way is Way.QUARANTINED:
                    number = index if len(placements) == len(entry.messages) else None
                    moving += self._set_aside(batch, placement, entry, number, now_ms)
                else:
                    moving.append(self._add(batch, placement, entry, delivery, now_ms))
        call_route(
            self._connection,
            self._keys,
            batch,
            owner=self._owner,
            window_ms=self._window_ms,
            now_ms=now_ms,
            on_reply=partial(self._moved, moving, delivery, batch.pulling, on_moved),
        )

    def _add(
        self,
        batch: RouteBatch,
        placement: Placement,
        entry: IngressEntry,
        delivery: Delivery | None,
        now_ms: int,
    ) -> _Moving:
        envelope, way, key = placement.envelope, placement.way, placement.key
        assert envelope is not None
        if way is Way.FORWARD:
            batch.moves.append(Move(key, None))
            if placement.chosen:
                batch.forget.append(envelope.id)
            return _Moving(placement)
        body = encode(envelope)
        if way is Way.MAILBOX:
            return self._add_to_mailbox(batch, placement, body, entry.waiter, delivery, now_ms)
        event = event_of(placement, body, entry.waiter, now_ms=now_ms)
        if way is Way.LATER:
            assert envelope.deliver_at is not UNSET
            assert envelope.deliver_at is not None
            member, due_ms = LANE_NUMBER[entry.lane] + envelope.id, to_ms(envelope.deliver_at)
            batch.moves.append(Move(key, None, body, event=event, moment=due_ms, later=member))
        elif way is Way.PARKED:
            signature = Signature(placement.requirements, envelope.message_type, entry.lane)
            batch.parked[signature.key] = encode(signature)
            target = self._keys.parked_stream(signature.key)
            batch.moves.append(Move(key, target, body, entry.waiter, event, _expires_ms(placement)))
        else:
            batch.moves.append(Move(key, None, event=event))
        return _Moving(placement)

    def _add_to_mailbox(
        self,
        batch: RouteBatch,
        placement: Placement,
        body: bytes,
        waiter: str,
        delivery: Delivery | None,
        now_ms: int,
    ) -> _Moving:
        envelope, agent = placement.envelope, placement.agent
        assert envelope is not None
        assert agent is not None
        lane = lane_of(envelope.priority)
        mailbox = delivery.expect(agent, lane) if delivery is not None else None
        target = mailbox.key if mailbox is not None else self._keys.mailbox(agent.id, lane)
        direct = False
        if delivery is not None and mailbox is not None:
            direct = delivery.takes_directly(mailbox)
            if not mailbox.active:
                mailbox.active = True
                batch.activate.add(target)
        elif agent.endpoint is not None:
            batch.activate.add(target)
            batch.ring.append(target)
        else:
            batch.pulling.add(agent.id)
        event = b"" if direct else event_of(placement, body, waiter, now_ms=now_ms)
        batch.moves.append(Move(placement.key, target, body, waiter, event, _expires_ms(placement)))
        return _Moving(placement, body, waiter, not direct, mailbox)

    def _set_aside(
        self, batch: RouteBatch, placement: Placement, entry: IngressEntry, number: int | None, now_ms: int
    ) -> list[_Moving]:
        """Add the event of what is set aside, and, where it is a message, of how that ended.

        A move each: the call notes one mailbox entry for every event, and counts events by moves.
        """
        event = self._quarantined(placement, entry, number, now_ms)
        batch.moves.append(Move(b"", None, event=event))
        moving = [_Moving(placement)]
        if placement.envelope is not None:
            ended = event_of(placement, encode(placement.envelope), entry.waiter, now_ms=now_ms)
            batch.moves.append(Move(b"", None, event=ended))
            moving.append(_Moving(Placement(Way.ENDED, placement.raw)))
        return moving

    def _quarantined(
        self, placement: Placement, entry: IngressEntry, number: int | None, now_ms: int
    ) -> bytes:
        """Return the event that keeps the bytes. `number` tells apart the messages of one entry (None: it is
        set aside whole)."""
        stream = self._keys.ingress[entry.lane]
        whole = len(entry.messages) == 1 or number is None
        kept, size = placement.raw[:QUARANTINED_BYTES_MAX], len(placement.raw)
        detail = placement.detail[:500]
        if len(kept) < size:
            detail += f" (the first {QUARANTINED_BYTES_MAX} of {size} bytes are kept)"
        event = Event(
            kind=EventKind.QUARANTINED,
            id=entry.id if whole else f"{entry.id}/{number}",
            at_ms=now_ms,
            reason=placement.reason,
            detail=detail,
            raw=b64encode(kept).decode(),
            stream=stream,
        )
        metrics.QUARANTINED.child().inc()
        logs.warning("route.quarantined", stream=stream, entry=entry.id, reason=placement.reason)
        return encode(event)

    # --- when Redis has moved them --------------------------------------------------------------------

    def _moved(
        self,
        moving: list[_Moving],
        delivery: Delivery | None,
        pulling: set[str],
        on_moved: Callable[[BrokerError | None], None],
        reply: Reply,
    ) -> None:
        """Hand over what has been moved; `delivery` is who expected it. Agents that pull get the word."""
        owner = self._delivery()
        if isinstance(reply, BrokerError):
            for one in moving:
                if one.mailbox is not None and owner is not None and owner is delivery:
                    # Nothing has changed: it has to be put on the active set by whoever routes into it next.
                    one.mailbox.active = False
                    owner.miss(one.mailbox)
            on_moved(reply)
            return
        now_ms = self._clock.now_ms()
        for one, entry in zip(moving, reply, strict=True):
            _COUNTED[Way.DUPLICATE if entry is None else one.placement.way].inc()
            if one.mailbox is None or owner is None:
                continue
            if owner is not delivery:
                # The owner changed while the call was under way: the new one has to look for itself.
                owner.ring(one.mailbox.key)
            elif entry is None:
                owner.miss(one.mailbox)
            else:
                self._hand_over(owner, one.mailbox, one, entry.decode(), now_ms)
        if pulling:
            self._connection.call(("PUBLISH", ARRIVED, encode(sorted(pulling))), _ignore)
        on_moved(None)

    def _hand_over(self, owner: Delivery, mailbox: Mailbox, one: _Moving, entry: str, now_ms: int) -> None:
        assert one.placement.envelope is not None
        owner.accept(
            mailbox,
            entry,
            one.placement.envelope,
            one.body,
            waiter=one.waiter,
            told=one.told,
            route=one.placement.route,
            now_ms=now_ms,
        )


def _ignore(_: Reply) -> None:
    """A word of arrival that gets lost costs its agent the time to the next sweep."""


def _expires_ms(placement: Placement) -> int | None:
    envelope = placement.envelope
    assert envelope is not None
    return None if envelope.expires_at is None else to_ms(envelope.expires_at)
