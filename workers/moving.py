"""Turns placements into one route call, and hands what was moved to the delivery owner of the shard.

Everything here happens between two turns of the loop: what is decided about a mailbox when the call is sent
still holds when it is sent, and `Mailbox.coming` keeps the mailbox open until the call is answered.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import UNSET

from broker.core.parking import Signature
from broker.core.quarantine import set_aside
from broker.streams.clock import ServerClock
from broker.streams.connection import Connection, Reply
from broker.streams.keys import ARRIVED, Keys
from broker.streams.lanes import IngressEntry
from broker.streams.moves import DUPLICATE, LANE_NUMBER, RouteBatch, call_route
from broker.telemetry import logs, metrics
from schema.codec import encode
from schema.errors import BrokerError
from schema.limits import QUARANTINED_BYTES_MAX
from schema.message import Envelope, Lane, lane_of
from schema.times import to_ms
from workers.delivery.delivery import Delivery
from workers.placing import Placement, Way, event_of, routed_event

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

_MAILBOX: Final = Way.MAILBOX


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
        moving: list[Placement] = []
        duplicates = 0
        for entry, placements in placed:
            batch.done[entry.lane].append(entry.id)
            for index, placement in enumerate(placements):
                placement.waiter = entry.waiter
                if placement.remembered and placement.envelope is not None:
                    batch.forget.append(placement.envelope.id)
                if placement.way is _MAILBOX:
                    self._add_to_mailbox(batch, placement, delivery, now_ms)
                    moving.append(placement)
                elif placement.way is Way.DUPLICATE:
                    duplicates += 1
                elif placement.way is Way.QUARANTINED:
                    number = index if len(placements) == len(entry.messages) else None
                    moving += self._set_aside(batch, placement, entry, number, now_ms)
                else:
                    self._add(batch, placement, entry.lane, now_ms)
                    moving.append(placement)
        _COUNTED[Way.DUPLICATE].inc(duplicates)
        call_route(
            self._connection,
            self._keys,
            batch,
            owner=self._owner,
            window_ms=self._window_ms,
            now_ms=now_ms,
            on_reply=partial(self._moved, moving, delivery, batch.pulling, on_moved),
        )

    def _add(self, batch: RouteBatch, placement: Placement, lane: Lane, now_ms: int) -> None:
        """Add what goes anywhere but into a mailbox."""
        envelope, way, key = placement.envelope, placement.way, placement.key
        assert envelope is not None
        if way is Way.FORWARD:
            batch.add(key)
            if placement.chosen and not placement.remembered:
                batch.forget.append(envelope.id)
            return
        body = encode(envelope)
        if way is Way.PARKED:
            signature = Signature(placement.requirements, envelope.message_type, lane)
            batch.parked[signature.key] = encode(signature)
            batch.add(key, self._keys.parked_stream(signature.key), body)
            _note_rest(batch, placement)
        else:
            batch.add(key)
        batch.tell(event_of(placement, body, now_ms=now_ms))
        if way is Way.LATER:
            assert envelope.deliver_at is not UNSET
            assert envelope.deliver_at is not None
            batch.schedule(LANE_NUMBER[lane] + envelope.id, to_ms(envelope.deliver_at), body)

    def _add_to_mailbox(
        self, batch: RouteBatch, placement: Placement, delivery: Delivery | None, now_ms: int
    ) -> None:
        envelope, agent = placement.envelope, placement.agent
        assert envelope is not None
        assert agent is not None
        lane = lane_of(envelope.priority)
        placement.body = body = encode(envelope)
        mailbox = delivery.expect(agent, lane) if delivery is not None else None
        if delivery is not None and mailbox is not None:
            placement.mailbox, target = mailbox, mailbox.key
            placement.told = not delivery.takes_directly(mailbox)
            if not placement.told and _is_plain(placement, envelope):
                placement.handed = name = delivery.name_for(mailbox, now_ms)
                if name:
                    batch.recipient = delivery.shelver.life
                    batch.hand_over(placement.key, name, body)
                    return
            mailbox.is_used = True
            if not mailbox.active:
                mailbox.active = True
                batch.activate.add(target)
        else:
            target = self._keys.mailbox(agent.id, lane)
            if agent.endpoint is None:
                batch.pulling.add(agent.id)
            else:
                batch.activate.add(target)
                batch.ring[target] = None
        batch.add(placement.key, target, body)
        if placement.told:
            batch.tell(routed_event(placement, body, now_ms=now_ms))
        if placement.waiter or envelope.expires_at is not None:
            _note_rest(batch, placement)

    def _set_aside(
        self, batch: RouteBatch, placement: Placement, entry: IngressEntry, number: int | None, now_ms: int
    ) -> list[Placement]:
        """Add the event of what is set aside, and, where it is a message, of how that ended.

        A move each: the call notes one mailbox entry for every event, and counts events by moves.
        """
        batch.add(b"")
        batch.tell(self._quarantined(placement, entry, number, now_ms))
        if placement.envelope is None:
            return [placement]
        batch.add(b"")
        batch.tell(event_of(placement, encode(placement.envelope), now_ms=now_ms))
        return [placement, Placement(Way.ENDED, placement.raw)]

    def _quarantined(
        self, placement: Placement, entry: IngressEntry, number: int | None, now_ms: int
    ) -> bytes:
        """Return the event that keeps the bytes. `number` tells apart the messages of one entry (None: it is
        set aside whole)."""
        stream = self._keys.ingress[entry.lane]
        whole = len(entry.messages) == 1 or number is None
        detail = placement.detail[:500]
        if (size := len(placement.raw)) > QUARANTINED_BYTES_MAX:
            detail += f" (the first {QUARANTINED_BYTES_MAX} of {size} bytes are kept)"
        event = set_aside(
            placement.raw,
            stream=stream,
            entry=entry.id if whole else f"{entry.id}/{number}",
            reason=placement.reason,
            detail=detail,
            now_ms=now_ms,
        )
        metrics.QUARANTINED.child().inc()
        logs.warning("route.quarantined", stream=stream, entry=entry.id, reason=placement.reason)
        return encode(event)

    # --- when Redis has moved them --------------------------------------------------------------------

    def _moved(
        self,
        moving: list[Placement],
        delivery: Delivery | None,
        pulling: set[str],
        on_moved: Callable[[BrokerError | None], None],
        reply: list[str] | BrokerError,
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
        _count(moving, reply)
        if owner is not None and owner is not delivery:
            # The owner changed while the call was under way: the new one has to look for itself.
            for key in {one.mailbox.key for one in moving if one.mailbox is not None}:
                owner.ring(key)
        elif owner is not None:
            self._hand_over(owner, moving, reply)
        if pulling:
            self._connection.call(("PUBLISH", ARRIVED, encode(sorted(pulling))), _ignore)
        on_moved(None)

    def _hand_over(self, owner: Delivery, moving: list[Placement], entries: list[str]) -> None:
        now_ms = self._clock.now_ms()
        for one, entry in zip(moving, entries, strict=True):
            mailbox = one.mailbox
            if mailbox is None:
                continue
            if entry == DUPLICATE:
                owner.miss(mailbox)
                continue
            assert one.envelope is not None
            if one.handed:
                owner.receive(mailbox, one.handed, one.envelope, one.body, now_ms, one.route)
                continue
            owner.accept(
                mailbox,
                entry,
                one.envelope,
                one.body,
                now_ms,
                one.waiter,
                one.told,
                one.route,
            )


def _count(moving: list[Placement], entries: list[str]) -> None:
    """Count how the messages of a call went; by far the most of them go into mailboxes."""
    duplicates = entries.count(DUPLICATE)
    _COUNTED[Way.DUPLICATE].inc(duplicates)
    others = [
        one.way
        for one, entry in zip(moving, entries, strict=True)
        if one.way is not _MAILBOX and entry != DUPLICATE
    ]
    for way in others:
        _COUNTED[way].inc()
    _COUNTED[Way.MAILBOX].inc(len(moving) - len(others) - duplicates)


def _is_plain(placement: Placement, envelope: Envelope) -> bool:
    """Tell whether nobody asks for a message by its place: no gateway, no clock, no sender that takes it back
    (of what is on record already). Only such are handed over directly."""
    return not placement.waiter and envelope.expires_at is None and not placement.on_record


def _ignore(_: Reply) -> None:
    """A word of arrival that gets lost costs its agent the time to the next sweep."""


def _note_rest(batch: RouteBatch, placement: Placement) -> None:
    """Add what few messages have: a gateway that waits, a moment at which it expires."""
    if placement.waiter:
        batch.wait(placement.waiter)
    envelope = placement.envelope
    assert envelope is not None
    if envelope.expires_at is not None:
        batch.expire(to_ms(envelope.expires_at))
