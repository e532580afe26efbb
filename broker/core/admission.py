"""What is let in: quotas of inboxes, memory at which publishing is shed, rates. Pure: time comes in.

A quota is watched by an upper bound, so that a message costs an addition and no look at Redis: what lay in an
inbox when it was last looked at, and everything let in since. Only when that bound reaches the quota has
somebody to look again; what has been taken out meanwhile then makes room.
"""

from collections.abc import Hashable
from typing import Final

from msgspec import Struct

from schema.agent import Agent

UNSEEN_MESSAGES: Final = 64
"""Messages let into an inbox nobody has looked into yet before it is looked at: after a take-over a full one
exceeds its quota by this many."""
UNSEEN_BYTES: Final = 4 * 1024 * 1024
SLACK_PART: Final = 8
SLACK_MESSAGES_MIN: Final = 16
SLACK_BYTES_MIN: Final = 1024 * 1024
"""An inbox at its quota is closed at the door. What was accepted before the doors heard of it still goes in,
up to an eighth of the quota more (at least so much); only beyond that does the router end messages."""
REOPENED_PART: Final = 10
"""A full inbox is open again once a tenth of its quota is free: else it would flap with every message."""
SHED_RATIO: Final = 0.70
"""Of Redis' memory: from here on publishing is refused, and a deployment is said to run out of it."""
SHED_UNTIL_RATIO: Final = 0.65


class Quota(Struct, frozen=True):
    """What an inbox may hold; 0: without a bound."""

    messages: int = 0
    bytes: int = 0

    def of(self, agent: Agent) -> "Quota":
        """Return the quota of an agent: its own where an operator has set one, else this."""
        if agent.inbox_messages_max is None and agent.inbox_bytes_max is None:
            return self
        return Quota(
            self.messages if agent.inbox_messages_max is None else agent.inbox_messages_max,
            self.bytes if agent.inbox_bytes_max is None else agent.inbox_bytes_max,
        )

    def is_reached(self, held: "Held") -> bool:
        """Tell whether an inbox with so much in it takes no more."""
        return _reached(held.messages, self.messages) or _reached(held.bytes, self.bytes)

    def has_reopened(self, held: "Held") -> bool:
        """Tell whether an inbox that was full takes messages again."""
        return not _reached(held.messages, self.messages - self.messages // REOPENED_PART) and not _reached(
            held.bytes, self.bytes - self.bytes // REOPENED_PART
        )

    def is_exceeded(self, held: "Held") -> bool:
        """Tell whether even what was accepted already goes in no more."""
        return _reached(held.messages, slack(self.messages, SLACK_MESSAGES_MIN)) or _reached(
            held.bytes, slack(self.bytes, SLACK_BYTES_MIN)
        )


class Held(Struct, frozen=True, gc=False):
    """How much an inbox holds at most, as far as its watcher knows."""

    messages: int = 0
    bytes: int = 0


def slack(quota: int, least: int) -> int:
    """Return up to where what was accepted still goes in; 0 for no bound."""
    return quota and quota + max(least, quota // SLACK_PART)


_NOTHING: Final = Held()


class InboxWatch:
    """One inbox as its router sees it. `held` is an upper bound while nothing else writes to it.

    `let_in` until it says that a look is due; then `looking`, look, and `looked`.
    """

    __slots__ = ("_bytes_left", "_messages_left", "_since", "held", "is_full", "is_looking", "quota")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.held = _NOTHING
        self.is_full = False
        self.is_looking = False
        self._since = _NOTHING
        self._messages_left = min(UNSEEN_MESSAGES, quota.messages or UNSEEN_MESSAGES)
        self._bytes_left = min(UNSEEN_BYTES, quota.bytes or UNSEEN_BYTES)

    def let_in(self, size: int) -> bool:
        """Count a message of so many bytes; tell whether it is time to look."""
        self._messages_left -= 1
        self._bytes_left -= size
        return self._messages_left < 0 or self._bytes_left < 0

    @property
    def takes_more(self) -> bool:
        """Whether the router lets in what was accepted."""
        return not self.is_full or not self.quota.is_exceeded(self._bound())

    def limit(self, quota: Quota) -> None:
        """Take over another quota; a look is due."""
        self.quota = quota
        self._messages_left = self._bytes_left = -1

    def looking(self) -> None:
        """Note that a look begins: what is let in from here on may not be in what it finds."""
        self.is_looking = True
        self._since = Held(self._messages_left, self._bytes_left)

    def looked(self, found: Held) -> None:
        """Take over what a look has found."""
        came = Held(self._since.messages - self._messages_left, self._since.bytes - self._bytes_left)
        self.is_looking = False
        self.held = Held(found.messages + came.messages, found.bytes + came.bytes)
        quota = self.quota
        self.is_full = not quota.has_reopened(self.held) if self.is_full else quota.is_reached(self.held)
        self._messages_left = _left(quota.messages, self.held.messages)
        self._bytes_left = _left(quota.bytes, self.held.bytes)

    def _bound(self) -> Held:
        """Return `held` with what was let in since the last look."""
        quota, held = self.quota, self.held
        return Held(
            held.messages + _left(quota.messages, held.messages) - self._messages_left,
            held.bytes + _left(quota.bytes, held.bytes) - self._bytes_left,
        )


class Shedder:
    """Whether publishing is refused for want of memory: from 70 % of the limit on, until below 65 %."""

    __slots__ = ("is_shedding",)

    def __init__(self) -> None:
        self.is_shedding = False

    def take(self, ratio: float) -> bool:
        """Take over how full the fullest Redis is (0 to 1; without a limit 0); tell whether that changed
        anything."""
        before = self.is_shedding
        self.is_shedding = ratio >= (SHED_UNTIL_RATIO if before else SHED_RATIO)
        return self.is_shedding is not before


class Rates:
    """Token buckets, each kept as the time at which it will be full again (GCRA). Unused ones cost nothing.

    `per_s`: tokens a second, 0: no bound. `burst`: tokens of a full bucket. At `buckets_max` all are full
    again: a bound on memory, and a moment's grace.
    """

    __slots__ = ("_buckets_max", "_full_ms", "_interval_ms", "_window_ms", "is_on")

    def __init__(self, *, per_s: float, burst: float, buckets_max: int) -> None:
        self.is_on = per_s > 0
        self._interval_ms = 1_000 / per_s if per_s > 0 else 0.0
        self._window_ms = self._interval_ms * max(1.0, burst)
        self._buckets_max = buckets_max
        self._full_ms: dict[Hashable, float] = {}

    def take(self, key: Hashable, now_ms: float, count: int = 1) -> float:
        """Take tokens; return 0.0, or for how many ms there are not so many: then nothing was taken.

        More than a bucket holds are let through when it is full, and its owner waits the longer afterwards.
        """
        full_ms = self._full_ms.get(key, 0.0)
        if full_ms < now_ms:
            full_ms = now_ms
        taken_ms = self._interval_ms * count
        over_ms = full_ms + min(taken_ms, self._window_ms) - now_ms - self._window_ms
        if over_ms > 1e-6:
            return over_ms
        if len(self._full_ms) >= self._buckets_max:
            self._full_ms.clear()
        self._full_ms[key] = full_ms + taken_ms
        return 0.0

    def give_back(self, key: Hashable) -> None:
        """Put back the token that was just taken."""
        if key in self._full_ms:
            self._full_ms[key] -= self._interval_ms


class FairShare:
    """Who publishes so fast that what they publish has to wait behind the others. Nothing is refused.

    A sender is over its share from the moment its bucket is empty until it is full again: going back and
    forth with every token would let its messages overtake each other all the time. `share_s` is in how many
    seconds a bucket fills. At `senders_max` everybody is within their share again.
    """

    __slots__ = ("_full_ms", "_interval_ms", "_over", "_senders_max", "_window_ms", "is_on")

    def __init__(self, *, per_s: float, share_s: float, senders_max: int) -> None:
        self.is_on = per_s > 0
        self._interval_ms = 1_000 / per_s if per_s > 0 else 0.0
        self._window_ms = share_s * 1_000
        self._senders_max = senders_max
        self._full_ms: dict[str, float] = {}
        self._over: set[str] = set()

    def is_over(self, sender: str, now_ms: float) -> bool:
        """Count a message; tell whether it has to wait behind the others."""
        return self.within(sender, now_ms) == 0

    def within(self, sender: str, now_ms: float, count: int = 1) -> int:
        """Count messages; return how many of them, the first ones, need not wait behind the others."""
        full_ms = self._full_ms.get(sender, 0.0)
        if full_ms <= now_ms:
            full_ms = now_ms
            self._over.discard(sender)
            if len(self._full_ms) >= self._senders_max:
                self._full_ms.clear()
                self._over.clear()
        room_ms = now_ms + self._window_ms - full_ms
        counted_ms = count * self._interval_ms
        fitting = 0 if sender in self._over else count
        if counted_ms > room_ms:
            fitting = min(fitting, int(room_ms / self._interval_ms))
            counted_ms = room_ms
            self._over.add(sender)
        self._full_ms[sender] = full_ms + counted_ms
        return fitting


def _reached(held: int, bound: int) -> bool:
    return 0 < bound <= held


def _left(quota: int, held: int) -> int:
    """Return how much goes in before a look is due; without a bound never."""
    return quota - held if quota else 1 << 62
