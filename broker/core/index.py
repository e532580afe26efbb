"""The inverted index behind routing by capability: who can do all of this, is there, and takes this message.

Agents are dense small integers here (slots); sets of them are compressed bitmaps (Roaring: Lemire et al.,
2018). What a query found is kept as a pool and used until an agent that has one of its capabilities changes,
so that a message usually costs one dictionary look-up. It knows nothing of load, time or names.

Invariant: a pool that `pool` returns holds exactly the slots that pass every filter at that moment.
"""

from array import array
from collections.abc import Iterable
from typing import Final

from msgspec import Struct
from pyroaring import BitMap

from schema.agent import Agent
from schema.ids import shard_of
from schema.limits import ROUTE_POOLS_MAX, ROUTE_POOLS_MEMBERS_MAX

PoolKey = tuple[tuple[str, ...], str | None, str | None]
_NO_SLOTS: Final = BitMap()


class Funnel(Struct):
    """What is left after each filter, each a subset of the one before."""

    capable: BitMap
    active: BitMap
    heard: BitMap
    accepting: BitMap
    allowed: BitMap


class Posting:
    """The slots of one capability, and the generation in which anything about one of them last changed."""

    __slots__ = ("changed", "slots")

    def __init__(self) -> None:
        self.slots = BitMap()
        self.changed = 0


class Restriction:
    """Slots that take only listed values of something (message types, senders); the others cost nothing."""

    __slots__ = ("_restricted", "listed")

    def __init__(self) -> None:
        self._restricted = BitMap()
        self.listed: dict[str, BitMap] = {}

    def add(self, slot: int, values: Iterable[str] | None) -> None:
        """Restrict a slot to these values; None leaves it open to all."""
        if values is None:
            return
        self._restricted.add(slot)
        for value in values:
            self.listed.setdefault(value, BitMap()).add(slot)

    def discard(self, slot: int, values: Iterable[str] | None) -> None:
        """Undo `add` with the same values."""
        if values is None:
            return
        self._restricted.discard(slot)
        for value in values:
            slots = self.listed.get(value)
            if slots is not None:
                slots.discard(slot)
                if not slots:
                    del self.listed[value]

    def key(self, value: str | None) -> str | None:
        """Return the value if any slot lists it; all other values are alike."""
        return value if value in self.listed else None

    def drop_refusing(self, slots: BitMap, value: str | None) -> BitMap:
        """Return the slots without those that refuse this value."""
        if slots.isdisjoint(self._restricted):
            return slots
        listing = self.listed.get(value, _NO_SLOTS) if value is not None else _NO_SLOTS
        return slots - (self._restricted - listing)


class Pool:
    """The candidates of one kind of message: `slots` is an array, because sampling wants the n-th at once."""

    __slots__ = ("_bitmap", "_in_shard", "as_of", "postings", "slots")

    def __init__(self, bitmap: BitMap, postings: list[Posting], as_of: int) -> None:
        self._bitmap = bitmap
        self._in_shard: dict[tuple[int, int], array[int]] = {}
        self.slots: array[int] = bitmap.to_array()
        self.postings = postings
        self.as_of = as_of

    def in_shard(self, shard: int, shards: int, index: "Index") -> "array[int]":
        """Return the candidates whose mailbox lies in this shard."""
        key = (shard, shards)
        own = self._in_shard.get(key)
        if own is None:
            own = self._in_shard[key] = (self._bitmap & index.shard(shard, shards)).to_array()
        return own


_EMPTY: Final = Pool(BitMap(), [], 0)


class Index:
    """Slots by capability, state, restrictions and shard."""

    def __init__(self) -> None:
        self._active = BitMap()
        self._heard = BitMap()
        self._types = Restriction()
        self._senders = Restriction()
        self._postings: dict[str, Posting] = {}
        self._ids: list[str] = []
        self._shards: list[BitMap] = []
        self._generation = 0
        self._pools: dict[PoolKey, Pool] = {}
        self._pooled = 0

    def add(self, slot: int, agent: Agent) -> None:
        """Add an agent at a free slot, the next new one or one used before. It counts as silent."""
        if slot == len(self._ids):
            self._ids.append(agent.id)
        self._ids[slot] = agent.id
        if self._shards:
            self._shards[shard_of(agent.id, len(self._shards))].add(slot)
        if agent.takes_work:
            self._active.add(slot)
        self._types.add(slot, agent.accepts)
        self._senders.add(slot, agent.allow_from)
        for capability in agent.capabilities:
            posting = self._postings.get(capability)
            if posting is None:
                posting = self._postings[capability] = Posting()
            posting.slots.add(slot)
        self._touch(agent)

    def discard(self, slot: int, agent: Agent) -> None:
        """Remove the agent at this slot, as it was added."""
        self._touch(agent)
        self._ids[slot] = ""
        if self._shards:
            self._shards[shard_of(agent.id, len(self._shards))].discard(slot)
        self._active.discard(slot)
        self._heard.discard(slot)
        self._types.discard(slot, agent.accepts)
        self._senders.discard(slot, agent.allow_from)
        for capability in set(agent.capabilities):
            posting = self._postings[capability]
            posting.slots.discard(slot)
            if not posting.slots:
                del self._postings[capability]

    def set_heard(self, slot: int, agent: Agent) -> None:
        """The agent at this slot is there."""
        self._heard.add(slot)
        self._touch(agent)

    def set_silent(self, slot: int, agent: Agent) -> None:
        """The agent at this slot has been silent for too long."""
        self._heard.discard(slot)
        self._touch(agent)

    def is_heard(self, slot: int) -> bool:
        """Tell whether the slot counts as heard."""
        return slot in self._heard

    def shard(self, shard: int, shards: int) -> BitMap:
        """Return the slots of a shard. The first call with a number of shards sorts everybody into them."""
        if len(self._shards) != shards:
            self._shards = [BitMap() for _ in range(shards)]
            for slot, agent_id in enumerate(self._ids):
                if agent_id:
                    self._shards[shard_of(agent_id, shards)].add(slot)
        return self._shards[shard]

    def count(self, capability: str) -> int:
        """Return how many agents have a capability."""
        posting = self._postings.get(capability)
        return 0 if posting is None else len(posting.slots)

    def pool(self, requirements: tuple[str, ...], message_type: str, sender: str | None) -> Pool:
        """Return the candidates for a message."""
        types, senders = self._types.listed, self._senders.listed
        key = (
            requirements,
            message_type if message_type in types else None,
            sender if sender in senders else None,
        )
        pool = self._pools.get(key)
        if pool is None or (pool.as_of != self._generation and not self._still_holds(pool)):
            pool = self._find(key)
        return pool

    def funnel(self, requirements: tuple[str, ...], message_type: str, sender: str | None) -> Funnel:
        """Return what each filter leaves."""
        capable = self._capable(requirements)
        active = capable & self._active
        heard = active & self._heard
        accepting = self._types.drop_refusing(heard, message_type)
        return Funnel(capable, active, heard, accepting, self._senders.drop_refusing(accepting, sender))

    def _touch(self, agent: Agent) -> None:
        """Make the pools of all the agent's capabilities stale."""
        self._generation += 1
        for capability in agent.capabilities:
            self._postings[capability].changed = self._generation

    def _capable(self, requirements: tuple[str, ...]) -> BitMap:
        """Return who has all of these; not to be changed, it may be a posting itself."""
        found = [self._postings.get(capability) for capability in requirements]
        postings = [posting for posting in found if posting is not None]
        if len(postings) < len(found) or not postings:
            return _NO_SLOTS
        if len(postings) == 1:
            return postings[0].slots
        # Smallest first: an intersection costs what its smaller side holds.
        return BitMap.intersection(*sorted((posting.slots for posting in postings), key=len))

    def _still_holds(self, pool: Pool) -> bool:
        for posting in pool.postings:
            if posting.changed > pool.as_of:
                return False
        pool.as_of = self._generation
        return True

    def _find(self, key: PoolKey) -> Pool:
        requirements, message_type, sender = key
        postings = [self._postings[capability] for capability in requirements if capability in self._postings]
        # A capability nobody has has no posting that could say when that changes: such a pool is not kept.
        if len(postings) < len(requirements) or not requirements:
            return _EMPTY
        slots = self._capable(requirements) & self._active
        slots &= self._heard
        slots = self._senders.drop_refusing(self._types.drop_refusing(slots, message_type), sender)
        return self._keep(key, Pool(slots, postings, self._generation))

    def _keep(self, key: PoolKey, pool: Pool) -> Pool:
        """Remember a pool; at the bounds all are forgotten: finding one again costs microseconds."""
        replaced = self._pools.get(key)
        if replaced is not None:
            self._pooled -= 2 * len(replaced.slots)
        # Twice: all members, and the same ones by shard.
        self._pooled += 2 * len(pool.slots)
        if len(self._pools) >= ROUTE_POOLS_MAX or self._pooled > ROUTE_POOLS_MEMBERS_MAX:
            self._pools.clear()
            self._pooled = 2 * len(pool.slots)
        self._pools[key] = pool
        return pool
