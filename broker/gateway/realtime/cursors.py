"""Event ids: how far a session has read each lane, in a form that a client hands back as `Last-Event-ID`."""

import re
from typing import Final

from broker.streams.mailbox import START, Cursors
from schema.errors import Rejected
from schema.message import LANES, Lane

_PART: Final = re.compile(r"([0-9]{1,20})-([0-9]{1,20})|0")
_LARGEST: Final = 2**64 - 1
"""Both halves of a stream id are 64-bit numbers."""

FROM_START: Final[Cursors] = dict.fromkeys(LANES, START)


def event_id(cursors: Cursors) -> str:
    """Return the event id of what was read up to these cursors."""
    return ",".join("0" if cursors[lane] == START else cursors[lane] for lane in LANES)


def parse_event_id(text: str) -> dict[Lane, str]:
    """Return the cursors an event id stands for. Raises: Rejected when it is none."""
    parts = text.split(",")
    matches = [_PART.fullmatch(part) for part in parts]
    if len(parts) != len(LANES) or not all(match is not None and _fits(match) for match in matches):
        raise Rejected("last_event_id: not an id of an event of this stream", field="last_event_id")
    return {lane: START if part == "0" else part for lane, part in zip(LANES, parts, strict=True)}


def _fits(match: re.Match[str]) -> bool:
    return all(half is None or int(half) <= _LARGEST for half in match.groups())
