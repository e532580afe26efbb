"""Where to look for a message of which only the id is known.

Messages are partitioned by the day they were created. A UUIDv7 tells when it was made, so its day and the
two beside it are looked into first; any other id, and a message whose publisher's clock was further off, is
looked for in every partition.
"""

from collections.abc import Iterable
from math import inf
from typing import Final

from schema.ids import made_ms

DAY_S: Final = 24 * 3600.0
MARGIN_S: Final = DAY_S

Window = tuple[float, float]
"""Seconds since the epoch: from (included) and until (not included)."""

EVER: Final[Window] = (-inf, inf)


def made_within(ids: Iterable[str]) -> Window:
    """Return the window of the ids that tell when they were made; an empty one where none does."""
    made = [at_ms / 1000 for at_ms in map(made_ms, ids) if at_ms is not None]
    return (min(made) - MARGIN_S, max(made) + MARGIN_S) if made else (0.0, 0.0)
