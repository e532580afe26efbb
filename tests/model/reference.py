"""What should be: the messages that were published, and where a look at Redis finds each."""

from collections import defaultdict
from dataclasses import dataclass, field

import redis

from broker.core.fold import fold
from broker.streams.keys import Keys
from broker.streams.lanes import parted
from schema.codec import decode_events, decode_stored_envelope
from schema.ledger import Event, EventKind
from schema.message import Envelope

Name = tuple[str, int]
"""A message in one of its rounds."""


WHERE = (b"ingress", b"inbox", b"parked")


def name_of(envelope: Envelope) -> Name:
    return envelope.id, envelope.round if isinstance(envelope.round, int) else 0


@dataclass
class Places:
    """Where copies of messages lie at one moment, by name. `fresh`: in an ingress, not yet looked at (as many
    as were published); the others are places a message can only be in once."""

    fresh: dict[Name, int] = field(default_factory=lambda: defaultdict(int))
    passed: dict[Name, int] = field(default_factory=lambda: defaultdict(int))
    parked: dict[Name, int] = field(default_factory=lambda: defaultdict(int))
    later: dict[Name, int] = field(default_factory=lambda: defaultdict(int))
    mailbox: dict[Name, int] = field(default_factory=lambda: defaultdict(int))
    handed: dict[Name, int] = field(default_factory=lambda: defaultdict(int))
    """Handed over directly to a delivery owner, and in no mailbox."""
    fields: set[str] = field(default_factory=set)
    """The names by which they were."""
    boxes: set[str] = field(default_factory=set)
    """Mailboxes that are not empty."""
    expiring: set[str] = field(default_factory=set)
    """Streams' entries that hold a message with an expiry, as the set of what expires names them."""

    @property
    def of_any(self) -> set[Name]:
        """Return the names of all that lies anywhere."""
        return {*self.fresh, *self.passed, *self.parked, *self.later, *self.mailbox, *self.handed}

    def of(self, name: Name) -> int:
        """Return how many times a message lies where it can only lie once."""
        places = (self.passed, self.parked, self.later, self.mailbox, self.handed)
        return sum(place.get(name, 0) for place in places)


def look(raw: redis.Redis, shards: list[Keys]) -> Places:
    """Find every copy of every message in Redis."""
    places = Places()
    streams = sorted(key.decode() for key in raw.keys("ab:*") if _holds_messages(key))
    pipe = raw.pipeline(transaction=False)
    for key in streams:
        pipe.xrange(key)
    for keys in shards:
        pipe.hvals(keys.later_messages)
    for keys in shards:
        pipe.hgetall(keys.direct)
    replies = pipe.execute()
    hashes = replies[len(streams) :]
    for key, entries in zip(streams, replies, strict=False):
        for entry, fields in entries:
            _note(places, key, entry.decode(), fields)
    for messages in hashes[: len(shards)]:
        for message in messages:
            places.later[name_of(decode_stored_envelope(message))] += 1
    for fields in hashes[len(shards) :]:
        for field_name, message in fields.items():
            places.handed[name_of(decode_stored_envelope(message))] += 1
            places.fields.add(field_name.decode())
    return places


def _holds_messages(key: bytes) -> bool:
    """Tell whether a key is a stream of messages (`parked` itself is a hash of who could take them)."""
    return key.count(b":") > 2 and key.split(b":")[2] in WHERE


def _note(places: Places, stream: str, entry: str, fields: dict[bytes, bytes]) -> None:
    name = stream.split(":")[2]
    if name == "ingress":
        where = places.passed if b"p" in fields else places.fresh
        for message in parted(fields[b"m"]):  # several, where they were forwarded together
            where[name_of(decode_stored_envelope(message))] += 1
        return
    envelope = decode_stored_envelope(fields[b"m"])
    where = places.mailbox if name == "inbox" else places.parked
    where[name_of(envelope)] += 1
    if name == "inbox":
        places.boxes.add(stream)
    if envelope.expires_at is not None:
        places.expiring.add(f"{stream}|{entry}")


@dataclass
class Told:
    """Everything the ledgers ever said, however they were cut since."""

    ends: dict[Name, list[Event]] = field(default_factory=lambda: defaultdict(list))
    attempts: dict[Name, list[int]] = field(default_factory=lambda: defaultdict(list))
    recipients: dict[Name, set[str]] = field(default_factory=lambda: defaultdict(set))
    _read: dict[int, str] = field(default_factory=dict)

    def hear(self, raw: redis.Redis, shards: list[Keys]) -> None:
        """Take in what was told since the last time."""
        pipe = raw.pipeline(transaction=False)
        for keys in shards:
            pipe.xrange(keys.ledger, f"({self._read.get(keys.shard, '0-0')}")
        for keys, entries in zip(shards, pipe.execute(), strict=True):
            for entry, fields in entries:
                self._read[keys.shard] = entry.decode()
                for event in decode_events(fields[b"b"]):
                    self._note(event)

    def _note(self, event: Event) -> None:
        assert event.kind is not EventKind.QUARANTINED, event
        [row] = fold([event]).messages
        name = (event.id, row.round)
        if event.kind is EventKind.SETTLED:
            self.ends[name].append(event)
        if event.attempt is not None:
            self.attempts[name].append(event.attempt.number)
        if event.to is not None:
            self.recipients[name].add(event.to)
