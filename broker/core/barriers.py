"""What is stopped at present: agents, pairs and roots that an operator has switched off, pairs that were
found looping, inboxes that are full. Pure; whoever follows Redis and Postgres keeps it up to date.

    stopped                     a message is stopped
    agent                       from it or to it
    pair (switched off)         between the two, either way
    pair (tripped)              in the direction that tripped
    root                        that goes back to it, or is it
"""

from collections.abc import Iterable
from enum import Enum

from msgspec import Struct

from schema.quick import quick
from schema.trip import Pair, Trip


@quick
class Stop(Enum):
    """Why a message goes no further."""

    KILLED = "killed"
    LOOP = "loop"


class Switches(Struct, frozen=True):
    """What operators have switched off; of a pair both directions are in `pairs`."""

    agents: frozenset[str] = frozenset()
    pairs: frozenset[Pair] = frozenset()
    roots: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        """How many that are; a pair is one."""
        return len(self.agents) + len(self.pairs) // 2 + len(self.roots)

    def __bool__(self) -> bool:
        return bool(self.agents or self.pairs or self.roots)


NOTHING = Switches()


class Barriers:
    """What a process knows to be stopped. Ask `is_any` first: mostly nothing is."""

    __slots__ = ("full", "is_any", "switches", "tripped")

    def __init__(self) -> None:
        self.switches = NOTHING
        self.tripped: dict[Pair, str] = {}
        """The trip of each direction that is stopped."""
        self.full: frozenset[str] = frozenset()
        """Agents whose inbox takes no more."""
        self.is_any = False

    def switch(self, switches: Switches) -> None:
        """Take over what is switched off now."""
        self.switches = switches
        self._note()

    def trip(self, trips: Iterable[Trip]) -> None:
        """Take over what has tripped."""
        self.tripped = {pair: trip.id for trip in trips for pair in trip.directions}
        self._note()

    def fill(self, full: Iterable[str]) -> None:
        """Take over which inboxes are full."""
        self.full = frozenset(full)
        self._note()

    def stops(self, sender: str | None, recipient: str | None, root: str | None) -> Stop | None:
        """Return why this message goes no further; None where it does. Full inboxes are not asked about."""
        switches = self.switches
        if switches:
            if sender in switches.agents or recipient in switches.agents or root in switches.roots:
                return Stop.KILLED
            if sender is not None and recipient is not None and (sender, recipient) in switches.pairs:
                return Stop.KILLED
        if (
            self.tripped
            and sender is not None
            and recipient is not None
            and (sender, recipient) in self.tripped
        ):
            return Stop.LOOP
        return None

    def _note(self) -> None:
        self.is_any = bool(self.switches or self.tripped or self.full)
