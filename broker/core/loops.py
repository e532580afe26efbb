"""Loops: two agents that keep each other busy, and one that says the same again and again. Pure.

What answers a message inherits its root and its hop, and is stopped by their limits (`HOP_MAX`, `RootWatch`).
This is the back-stop for agents that drop causation: only messages *without* one (hop 0, no `reply_to`) are
looked at, since a request and its reply are no loop, and only those of a named sender. Two signs:

- *repeat*: the same sender, recipient and body more than `repeats` times within the window (but pings, which
  say the same every time);
- *alternation*: the direction between two agents changes `alternations` times within the window.

Windows begin with their first message, so a loop that goes on is always found, at the latest a window later
than by a sliding one. What is remembered is bounded: two generations of at most `remembered` entries, the
older dropped when the younger is full; a sign whose messages lie further apart than that is missed.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import pairwise
from typing import Final, Generic, TypeVar
from zlib import crc32

from msgspec import Struct

from schema.message import Envelope
from schema.presence import PING_TYPE
from schema.trip import Pair

WINDOW_MS: Final = 60_000
REMEMBERED_MAX: Final = 50_000
"""Entries of one generation, some 150 bytes each."""
TIMES_KEPT: Final = 32
"""Moments kept of one direction, for the process that sees the other one."""
SUSPICIOUS_PART: Final = 2
"""One direction alone is suspicious at half as many messages as alternations are a loop."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Sign(Enum):
    """What made a loop of it."""

    REPEAT = "repeat"
    ALTERNATION = "alternation"


class LoopRules(Struct, frozen=True):
    """What a deployment sets; 0: not looked at. `repeats`: so often is still fine."""

    repeats: int = 5
    alternations: int = 20
    window_ms: int = WINDOW_MS
    remembered: int = REMEMBERED_MAX

    @property
    def is_on(self) -> bool:
        return self.repeats > 0 or self.alternations > 0


class LoopWatch:
    """Looks at messages without a cause, one by one, in the order they are routed.

    Most messages say something new in the direction the last one went: they cost a checksum and two look-ups.
    """

    def __init__(self, rules: LoopRules) -> None:
        self._rules = rules
        self._bodies: _Generations[int, _First | _Repeats] = _Generations(rules.remembered)
        self._ways: _Generations[Pair, _Way] = _Generations(rules.remembered)

    def see(self, envelope: Envelope, sender: str, recipient: str, now_ms: int) -> Sign | None:
        """Take a message in; return what makes it part of a loop. The same message twice counts once."""
        rules, pair = self._rules, (sender, recipient)
        if rules.repeats:
            body = crc32(envelope.content, hash(pair) & 0xFFFFFFFF) << 32 | len(envelope.message_type)
            first: _First = (now_ms, envelope.id)
            found = self._bodies.get_or_put(body, first)
            again = found is not first and envelope.message_type != PING_TYPE
            if again and self._repeated(body, found, envelope.id, now_ms) > rules.repeats:
                return Sign.REPEAT
        if rules.alternations:
            way = self._ways.get(pair) or self._new_way(pair, now_ms)
            turns = way.turns
            turns.messages += 1
            if turns.last is not way and turns.turned(way, now_ms, rules.window_ms) >= rules.alternations:
                return Sign.ALTERNATION
        return None

    def is_suspicious(self, sender: str, recipient: str) -> bool:
        """Tell whether so much goes one way, and nothing comes back here, that whoever sees the other way
        should hear of it."""
        way = self._ways.get((sender, recipient))
        if way is None or way.turns.count > 0:
            return False
        return way.turns.messages * SUSPICIOUS_PART >= self._rules.alternations > 0

    def forget(self, sender: str, recipient: str) -> None:
        """Begin anew with two agents: their trip was reset."""
        self._ways.drop((sender, recipient))
        self._ways.drop((recipient, sender))
        # Which bodies were theirs is not known any more; of all the others a window begins anew.
        self._bodies.clear()

    def _repeated(self, body: int, found: "_First | _Repeats", message_id: str, now_ms: int) -> int:
        if isinstance(found, tuple):
            if found[1] == message_id:
                return 1
            found = _Repeats(*found)
            self._bodies.put(body, found)
        return found.add(now_ms, message_id, self._rules.window_ms)

    def _new_way(self, pair: Pair, now_ms: int) -> "_Way":
        back = self._ways.get((pair[1], pair[0]))
        way = _Way(_Turns(now_ms) if back is None else back.turns)
        if back is None:
            way.turns.last = way
        self._ways.put(pair, way)
        return way


def alternations(one_ms: Sequence[int], other_ms: Sequence[int], *, since_ms: int) -> int:
    """Return how often the direction changed, from the moments of the messages of each of two directions."""
    moments = sorted(
        [(at_ms, 0) for at_ms in one_ms if at_ms >= since_ms]
        + [(at_ms, 1) for at_ms in other_ms if at_ms >= since_ms]
    )
    return sum(1 for (_, before), (_, after) in pairwise(moments) if before != after)


class RootWatch:
    """How many messages with a cause go back to one root: at most `messages_max` (0: any number).

    Counts are this watcher's own. From a quarter of the bound on, what it counted is due to be told to the
    others (`untold`), and what they have counted comes back (`told`).
    """

    def __init__(self, messages_max: int, *, remembered: int = REMEMBERED_MAX) -> None:
        self._messages_max = messages_max
        self._step = max(1, messages_max // 8)
        self._roots: _Generations[str, _Root] = _Generations(remembered)

    def see(self, root_id: str) -> bool:
        """Count a message; tell whether the root has had more than it may."""
        if not self._messages_max:
            return False
        root = self._roots.get(root_id)
        if root is None:
            root = _Root()
            self._roots.put(root_id, root)
        if root.own + root.others >= self._messages_max:
            return True
        root.own += 1
        return False

    def untold(self, root_id: str) -> int:
        """Return how many of this root's messages the others should hear of now; 0: not yet."""
        root = self._roots.get(root_id)
        if root is None or root.own < 2 * self._step or root.own - root.told < self._step:
            return 0
        return root.own - root.told

    def tell(self, root_id: str, count: int) -> None:
        """Note that so many are being told."""
        if (root := self._roots.get(root_id)) is not None:
            root.told += count

    def told(self, root_id: str, total: int) -> None:
        """Take over what all watchers together have told."""
        if (root := self._roots.get(root_id)) is not None:
            root.others = max(root.others, total - root.told)


_First = tuple[int, str]
"""Of a body seen once: when, and the id of the message."""


class _Repeats:
    """A body seen more than once. `since_ms`: when the window began; `count`: messages within it."""

    __slots__ = ("count", "last_id", "since_ms")

    def __init__(self, since_ms: int, last_id: str) -> None:
        self.since_ms = since_ms
        self.count = 1
        self.last_id = last_id

    def add(self, now_ms: int, message_id: str, window_ms: int) -> int:
        if message_id != self.last_id:  # else it was published again, or is placed again
            if now_ms - self.since_ms >= window_ms:
                self.since_ms, self.count = now_ms, 0
            self.count += 1
            self.last_id = message_id
        return self.count


class _Turns:
    """What two agents share: in which direction the last message went, and how often that has changed."""

    __slots__ = ("count", "last", "messages", "since_ms")

    def __init__(self, since_ms: int) -> None:
        self.last: _Way | None = None
        self.since_ms = since_ms
        self.count = 0
        self.messages = 0

    def turned(self, way: "_Way", now_ms: int, window_ms: int) -> int:
        if now_ms - self.since_ms >= window_ms:
            self.since_ms, self.count = now_ms, 0
        self.last = way
        self.count += 1
        return self.count


class _Way:
    """One direction between two agents."""

    __slots__ = ("turns",)

    def __init__(self, turns: _Turns) -> None:
        self.turns = turns


class _Root:
    __slots__ = ("others", "own", "told")

    def __init__(self) -> None:
        self.own = self.told = self.others = 0


class _Generations(Generic[Key, Value]):
    """A bounded memory: what was not asked for while one generation filled up is forgotten."""

    __slots__ = ("_former", "_most", "_young")

    def __init__(self, most: int) -> None:
        self._most = most
        self._young: dict[Key, Value] = {}
        self._former: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        value = self._young.get(key)
        if value is None and (value := self._former.pop(key, None)) is not None:
            self.put(key, value)
        return value

    def get_or_put(self, key: Key, value: Value) -> Value:
        """Return what is remembered of the key; `value`, remembered from now on, where nothing is."""
        if len(self._young) >= self._most:
            self._former, self._young = self._young, {}
        found = self._young.setdefault(key, value)
        if found is value and self._former:
            found = self._young[key] = self._former.pop(key, value)
        return found

    def put(self, key: Key, value: Value) -> None:
        if len(self._young) >= self._most:
            self._former, self._young = self._young, {}
        self._young[key] = value

    def drop(self, key: Key) -> None:
        self._young.pop(key, None)
        self._former.pop(key, None)

    def clear(self) -> None:
        self._young, self._former = {}, {}


def moments(text: bytes | None) -> list[int]:
    """Read what `written` wrote; of anything else nothing."""
    parts: Iterable[bytes] = (text or b"").split()
    return [int(part) for part in parts if part.isdigit()][:TIMES_KEPT]


def written(moments_ms: Sequence[int]) -> bytes:
    """Write moments down for another process."""
    return b" ".join(b"%d" % at_ms for at_ms in moments_ms[-TIMES_KEPT:])
