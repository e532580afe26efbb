"""What messages this gateway took of late go back to: for answers that come before the record does.

A message answers another by its id alone; root and hop come from the record, so nobody can lower a hop by
lying about it. One that is not recorded yet would count as a root, and a quick chain of answers would never
grow. So those that have a cause themselves are remembered here; of the others it is right to take them for
roots.
"""

from typing import Final

from schema.message import Envelope

REMEMBERED_MAX: Final = 20_000
"""Messages of one generation; of two, the older is dropped when the younger is full."""


class Lineage:
    """Root and hop of messages with a cause, by id."""

    def __init__(self) -> None:
        self._young: dict[str, tuple[str, int]] = {}
        self._former: dict[str, tuple[str, int]] = {}

    def note(self, envelope: Envelope) -> None:
        """Remember a message that has a cause."""
        if len(self._young) >= REMEMBERED_MAX:
            self._former, self._young = self._young, {}
        self._young[envelope.id] = (envelope.root_id or envelope.id, envelope.hop)

    def find(self, message_id: str) -> tuple[str, int] | None:
        """Return root and hop; None for what is not remembered."""
        return self._young.get(message_id) or self._former.get(message_id)
