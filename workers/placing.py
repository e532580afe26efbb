"""Where one message goes. Decides; the router acts.

A placement says where (`Way`), with the message as it will lie there, and the ledger event where the record
must hear of it at once: of everything that is not posted from memory right away.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from msgspec import UNSET, Raw, Struct

from broker.core.directory import Directory
from broker.core.explanation import brief
from broker.core.routing import Choice, Loads, Rule, check_named, choose
from broker.streams.lanes import IngressEntry
from schema.agent import Agent
from schema.codec import decode_envelope, encode, requirements_of
from schema.errors import Rejected
from schema.ids import id_bytes, is_id, shard_of
from schema.ledger import Event, EventKind
from schema.limits import REQUIREMENTS_MAX, SCHEDULE_AHEAD_MS_MAX
from schema.message import Envelope, Reason, Status
from schema.quick import quick
from schema.times import from_ms, to_ms
from workers.delivery.items import Mailbox
from workers.guard import Guard

CREATED_AHEAD_MS_MAX: Final = 300_000
CREATED_AGE_MS_MAX: Final = 30 * 24 * 3600 * 1000
"""A creation time further ahead of Redis' clock, or further behind it, is not believed."""

_PENDING: Final = Status.PENDING.value


@quick
class Way(Enum):
    MAILBOX = "mailbox"
    PARKED = "parked"
    LATER = "later"
    FORWARD = "forward"
    ENDED = "ended"
    QUARANTINED = "quarantined"
    UNDECIDED = "undecided"
    DUPLICATE = "duplicate"


# Named once: to look up a member of an enum costs some ten times as much as a global name (CPython 3.11).
_MAILBOX: Final = Way.MAILBOX
_FORWARD: Final = Way.FORWARD
_QUARANTINED: Final = Way.QUARANTINED
_OWN_SHARD: Final = Rule.OWN_SHARD


class Placement(Struct, gc=False):
    """Where a message goes. `agent`: the recipient (MAILBOX, FORWARD). `chosen`: it was a choice, so a
    forward must repeat it. `remembered`: one was written down before a crash, and is to be forgotten when the
    message has left, wherever it goes now. `reason`: why it ended or was set aside. `raw`: what the publisher
    wrote. `key`: what makes a second publish of the same message a duplicate; empty for what is not looked
    up. `on_record`: the message was on record before, so its sender may have taken it back on its way here:
    it was scheduled, parked, or at another agent, or this is not its first round.

    The rest is noted as it is moved. `body`: the message as it lies in the mailbox. `told`: its ledger event
    goes with the call. `mailbox`: where the delivery owner in this process expects it. `handed`: the name by
    which it gets it directly; empty where it lies in the mailbox."""

    way: Way
    raw: bytes
    envelope: Envelope | None = None
    agent: Agent | None = None
    chosen: bool = False
    remembered: bool = False
    route: bytes | None = None
    requirements: tuple[str, ...] = ()
    reason: str = ""
    detail: str = ""
    key: bytes = b""
    on_record: bool = False
    waiter: str = ""
    body: bytes = b""
    told: bool = True
    mailbox: Mailbox | None = None
    handed: str = ""


class Placer:
    """Places messages of one shard. `chance` returns a random number in [0, 1). `guard` is asked about all
    that would go into a mailbox."""

    def __init__(
        self,
        directory: Directory,
        loads: Loads,
        *,
        shard: int,
        shards: int,
        chance: Callable[[], float],
        guard: Guard | None = None,
    ) -> None:
        self._directory = directory
        self._loads = loads
        self._shard = shard
        self._shards = shards
        self._chance = chance
        self._guard = guard
        self._believed_second = -1
        self._earliest = self._latest = from_ms(0)

    def place(self, raw: bytes, entry: IngressEntry, chosen: dict[str, str], *, now_ms: int) -> Placement:
        """Decide where a message goes. `chosen`: choices made before a crash, by message id.

        UNDECIDED means its recipient (or sender) is unknown to a directory that may be behind the message:
        refresh it and ask again, then `judge_unknown`.
        """
        try:
            envelope = decode_envelope(raw)
            self._complete(envelope, entry)
        except Rejected as error:
            return Placement(Way.QUARANTINED, raw, reason=Reason.MALFORMED.value, detail=error.message)
        placement = self._place(raw, envelope, entry, chosen, now_ms)
        if chosen and envelope.id in chosen:
            placement.remembered = True
        tried, later = envelope.tried is not UNSET, envelope.round is not UNSET and envelope.round > 0
        if tried or later or entry.passed or entry.known:
            placement.on_record = True
        agent, guard = placement.agent, self._guard
        if placement.way is _MAILBOX and guard is not None and agent is not None:
            reason = guard.judge(envelope, agent, len(raw), now_ms, is_new=not (tried or entry.is_again))
            if reason is not None:
                placement.way, placement.reason = Way.ENDED, reason.value
        if not entry.passed and placement.way is not _QUARANTINED:
            placement.key = deduplication_key(envelope)
        return placement

    def _place(
        self, raw: bytes, envelope: Envelope, entry: IngressEntry, chosen: dict[str, str], now_ms: int
    ) -> Placement:
        if envelope.from_agent_id is not None and not self._resolve_sender(envelope, envelope.from_agent_id):
            return Placement(Way.UNDECIDED, raw, envelope)
        if envelope.deliver_at is not UNSET:
            if not entry.passed and self._is_early(envelope, now_ms):
                return Placement(Way.LATER, raw, envelope)
            envelope.deliver_at = UNSET
        if envelope.to_agent_id is not None:
            return self._place_named(raw, envelope, envelope.to_agent_id, now_ms)
        return self._place_by_capability(raw, envelope, chosen, now_ms)

    def judge_unknown(self, placement: Placement) -> Placement:
        """Return the placement of a message whose recipient (or sender) a fresh directory does not know."""
        envelope = placement.envelope
        assert envelope is not None
        if envelope.from_agent_id is not None and not is_id(envelope.from_agent_id):
            placement.detail = f"unknown sender {envelope.from_agent_id!r}"
            placement.reason = Reason.UNKNOWN_SENDER.value
            envelope.from_agent_id = None
        else:
            placement.detail = f"unknown recipient {envelope.to_agent_id!r}"
            placement.reason = Reason.UNKNOWN_RECIPIENT.value
        if envelope.to_agent_id is not None and not is_id(envelope.to_agent_id):
            # What goes on record names agents by id; the name stands in the quarantined bytes.
            envelope.to_agent_id = None
        placement.way = Way.QUARANTINED
        return placement

    def _complete(self, envelope: Envelope, entry: IngressEntry) -> None:
        """Fill in what publishers may leave out, and correct a clock that cannot be right."""
        if not entry.passed and entry.at_ms // 1000 != self._believed_second:
            self._believe(entry.at_ms)
        created = envelope.created_at
        if created is not None and created.tzinfo is None:
            created = created.replace(tzinfo=UTC)
        if created is None or not (
            entry.passed
            or self._earliest <= created <= self._latest
            or _is_replayed(envelope, created, entry)
        ):
            envelope.created_at = from_ms(entry.at_ms)
        envelope.status = _PENDING
        at = envelope.deliver_at
        if at is not UNSET and at is not None and to_ms(at) > entry.at_ms + SCHEDULE_AHEAD_MS_MAX:
            raise Rejected("deliver_at is too far ahead", field="deliver_at")

    def _believe(self, at_ms: int) -> None:
        """Set the bounds of creation times that can be right: once a second, not for every message."""
        self._believed_second = at_ms // 1000
        self._earliest = from_ms(at_ms - CREATED_AGE_MS_MAX)
        self._latest = from_ms(at_ms + CREATED_AHEAD_MS_MAX)

    def _resolve_sender(self, envelope: Envelope, sender: str) -> bool:
        """Put the sender's id in place of its name; tell whether it is known (any id is)."""
        if sender in self._directory or is_id(sender):
            return True
        if is_id(sender.lower()):
            envelope.from_agent_id = sender.lower()
            return True
        agent = self._directory.resolve(sender)
        if agent is None:
            return False
        envelope.from_agent_id = agent.id
        return True

    def _is_early(self, envelope: Envelope, now_ms: int) -> bool:
        at = envelope.deliver_at
        if at is UNSET or at is None:
            return False
        return now_ms < to_ms(at)

    def _place_named(self, raw: bytes, envelope: Envelope, recipient: str, now_ms: int) -> Placement:
        agent = self._directory.resolve(recipient)
        if agent is None:
            return Placement(Way.UNDECIDED, raw, envelope)
        envelope.to_agent_id = agent.id
        if shard_of(agent.id, self._shards) != self._shard:
            return Placement(Way.FORWARD, raw, envelope, agent)
        route = None
        if envelope.route is not UNSET:
            route, envelope.route = _object(envelope.route), UNSET
        elif envelope.requirements is not UNSET:
            # Named by its sender: nobody else may get it, whoever else has the capabilities it mentions.
            envelope.requirements = UNSET
        refusal = check_named(envelope, agent, now_ms)
        if refusal is not None:
            return Placement(Way.ENDED, raw, envelope, agent, route=route, reason=refusal.value)
        return Placement(_MAILBOX, raw, envelope, agent, route=route)

    def _place_by_capability(
        self, raw: bytes, envelope: Envelope, chosen: dict[str, str], now_ms: int
    ) -> Placement:
        requirements = requirements_of(envelope)
        if not requirements or len(requirements) > REQUIREMENTS_MAX:
            detail = f"neither recipient nor requirements (at most {REQUIREMENTS_MAX})"
            return Placement(Way.QUARANTINED, raw, envelope, reason=Reason.MALFORMED.value, detail=detail)
        envelope.requirements = requirements
        envelope.route = UNSET
        tried = () if envelope.tried is UNSET else envelope.tried
        excluded = [one.agent_id for one in tried] if tried else ()
        if chosen and (before := chosen.get(envelope.id)) and before not in excluded:
            again = self._directory.get(before)
            if again is not None:
                return self._placed(raw, envelope, again, b"{}")
        choice = choose(
            envelope,
            requirements,
            self._directory,
            self._loads,
            shard=self._shard,
            shards=self._shards,
            now_ms=now_ms,
            chance=(self._chance(), self._chance()),
            excluded=excluded,
        )
        if isinstance(choice, Choice):
            agent, route = choice.agent, brief(choice, tried)
            if choice.rule is not _OWN_SHARD:
                return self._placed(raw, envelope, agent, route)
            envelope.to_agent_id = agent.id
            return Placement(_MAILBOX, raw, envelope, agent, chosen=True, route=route)
        if choice.ends is not None:
            return Placement(Way.ENDED, raw, envelope, reason=choice.ends.value)
        if tried:
            # Nobody is left. It ends as it ended with the last, whose it stays on record.
            last = self._directory.get(tried[-1].agent_id)
            return Placement(Way.ENDED, raw, envelope, last, reason=tried[-1].reason)
        return Placement(Way.PARKED, raw, envelope, requirements=tuple(requirements))

    def _placed(self, raw: bytes, envelope: Envelope, agent: Agent, route: bytes | None) -> Placement:
        envelope.to_agent_id = agent.id
        way = _MAILBOX if shard_of(agent.id, self._shards) == self._shard else _FORWARD
        if way is _FORWARD and route is not None:
            # There it looks like any message to a named recipient; that it was chosen, and why, goes along.
            envelope.route = Raw(route)
        return Placement(way, raw, envelope, agent, chosen=True, route=route)


def _is_replayed(envelope: Envelope, created: datetime, entry: IngressEntry) -> bool:
    """Tell whether a creation time is from the record, however long ago: in a later round it is."""
    return isinstance(envelope.round, int) and envelope.round > 0 and to_ms(created) <= entry.at_ms


def _object(route: Raw) -> bytes | None:
    """Return an explanation that came along; anything but an object is none."""
    return bytes(route) if memoryview(route)[0] == ord("{") else None


def deduplication_key(envelope: Envelope) -> bytes:
    """Return what makes a second publish of the same message (and the same round) a duplicate."""
    key = id_bytes(envelope.id)
    message_round, tried = envelope.round, envelope.tried
    if message_round is not UNSET:
        key += message_round.to_bytes(2)
    # To another agent it may come back to a shard that has seen it: that is another step, of one byte.
    return key if tried is UNSET else key + len(tried).to_bytes(1)


def routed_event(placement: Placement, body: bytes, *, now_ms: int) -> bytes:
    """Return the ledger event of a message that goes into a mailbox: the same bytes as `event_of`, at a third
    of its price. Ids are written as they are: they have been judged, and hold nothing JSON would escape."""
    envelope, agent, route = placement.envelope, placement.agent, placement.route
    assert envelope is not None
    assert agent is not None
    first = f'{{"kind":"routed","id":"{envelope.id}","at_ms":{now_ms},"message":'
    last = f',"to":"{agent.id}"'
    parts = [first.encode(), body, last.encode()]
    if route is not None:
        parts += (b',"route":', route)
    if placement.waiter:
        parts += (b',"waiter":', encode(placement.waiter))
    parts.append(b"}")
    return b"".join(parts)


def event_of(placement: Placement, body: bytes, *, now_ms: int) -> bytes:
    """Return the ledger event of a placement, encoded."""
    envelope = placement.envelope
    assert envelope is not None
    ended = placement.way in (Way.ENDED, Way.QUARANTINED)
    status = Status.PENDING
    if ended:
        status = Status.EXPIRED if placement.reason == Reason.EXPIRED.value else Status.FAILED
    return encode(
        Event(
            kind=EventKind.SETTLED if ended else EventKind.ROUTED,
            id=envelope.id,
            at_ms=now_ms,
            message=Raw(body),
            to=placement.agent.id if placement.agent is not None else None,
            status=status,
            reason=placement.reason or None,
            route=Raw(placement.route) if placement.route is not None else UNSET,
            waiter=placement.waiter or None,
        )
    )
