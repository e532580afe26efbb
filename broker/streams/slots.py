"""Slots of a Redis Cluster: into which one a key falls, which key a command is about, which node owns what.

Pure: replies of Redis in, addresses out. A deployment's keys carry the tags `{0}` to `{N-1}`, so all its work
lies in N slots of the 16,384 there are, and a slot that moves takes one whole shard along. Nothing here moves
slots: that is the operator's, and who serves what is only read.
"""

from binascii import crc_hqx
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

Argument = str | bytes | int

SLOTS: Final = 16_384
_TAGS_KEPT_MAX: Final = 4_096
"""Slots of tags that are remembered: shards are at most 256, and a deployment has few other names."""
_SCRIPTS: Final = frozenset(("EVAL", "EVALSHA", "FCALL"))
_READS: Final = frozenset(("XREAD", "XREADGROUP"))
_SECOND: Final = frozenset(("XGROUP", "XINFO", "MEMORY", "OBJECT"))
"""Commands with a subcommand in front of the key."""
_KEYLESS: Final = frozenset(
    ("ACL", "CLIENT", "CLUSTER", "CONFIG", "DBSIZE", "ECHO", "INFO", "PING", "SCRIPT", "TIME")
)


class Address(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


@lru_cache(_TAGS_KEPT_MAX)
def slot_of_tag(tag: bytes) -> int:
    """Return the slot of a tag, or of a key that has none: CRC16 (XMODEM) modulo 16,384, as the Redis
    Cluster specification has it."""
    return crc_hqx(tag, 0) % SLOTS


def slot_of(key: Argument) -> int:
    """Return the slot of a key: of what stands between its first `{` and the next `}`, unless that is empty,
    else of the whole."""
    name = key if isinstance(key, bytes) else str(key).encode()
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            return slot_of_tag(name[start + 1 : end])
    return slot_of_tag(name)


def key_of(command: Sequence[Argument]) -> Argument | None:
    """Return the first key (or the channel) a command is about; None where it has none.

    The keys of one command lie in one slot: whoever makes it sees to that, and Redis refuses others.
    """
    name = str(command[0])
    if name in _KEYLESS or len(command) < 2:
        return None
    if name in _SCRIPTS:
        return command[3] if int(command[2]) else None
    if name in _READS:
        return command[command.index("STREAMS") + 1]
    return command[2 if name in _SECOND else 1]


class SlotMap:
    """Which node serves which slots, as one node told it at one time."""

    def __init__(self, ranges: Iterable[tuple[int, int, Address]]) -> None:
        self._owners: list[Address | None] = [None] * SLOTS
        for first, last, address in ranges:
            self._owners[first : last + 1] = [address] * (last + 1 - first)

    def owner(self, slot: int) -> Address | None:
        """Return the primary that serves the slot; None where nobody does."""
        return self._owners[slot]

    def move(self, slot: int, address: Address) -> None:
        """Take over what a redirection said, until the map is read again."""
        self._owners[slot] = address

    @property
    def nodes(self) -> list[Address]:
        """The primaries that serve any slot, in a stable order."""
        return sorted({address for address in self._owners if address is not None})

    @property
    def is_whole(self) -> bool:
        """Whether every slot has a node."""
        return None not in self._owners

    def shards_by_node(self, shards: int) -> dict[Address, int]:
        """Return how many of a deployment's shards each node serves."""
        counted = Counter(self._owners[slot_of_tag(b"%d" % shard)] for shard in range(shards))
        return {node: counted[node] for node in self.nodes}


class Move(NamedTuple):
    """A slot that should be served elsewhere: the shard in it, and whereto."""

    shard: int
    slot: int
    source: Address
    target: Address


def even_out(slots: SlotMap, shards: int) -> list[Move]:
    """Return the fewest slots to move until no two nodes differ by more than one shard; what is even stays.

    Natural assignments (equal ranges) are even for some numbers and not for others: 64 shards on three nodes
    are 21, 22 and 21; eight are 2, 4 and 2.
    """
    held: dict[Address, list[int]] = {node: [] for node in slots.nodes}
    for shard in range(shards):
        if (owner := slots.owner(slot_of_tag(b"%d" % shard))) is not None:
            held[owner].append(shard)
    moves: list[Move] = []
    while held:
        most = max(held, key=lambda node: len(held[node]))
        least = min(held, key=lambda node: len(held[node]))
        if len(held[most]) - len(held[least]) <= 1:
            break
        shard = held[most].pop()
        held[least].append(shard)
        moves.append(Move(shard, slot_of_tag(b"%d" % shard), most, least))
    return moves


def parse_slots(reply: Any, *, asked: Address) -> SlotMap:  # Any: nested lists, as Redis sends them
    """Return the map from a reply to CLUSTER SLOTS. `asked`: the node that gave it; one that does not know
    its own address says so by an empty one."""
    return SlotMap(
        (first, last, Address((primary[0] or b"").decode() or asked.host, primary[1]))
        for first, last, primary, *_ in reply
    )
