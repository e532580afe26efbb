"""The messages of the benchmark: 350 to 400 bytes, half of them named, half routed by capability."""

from datetime import UTC, datetime
from typing import Final

from msgspec import Raw, Struct

from schema.ids import new_id
from schema.message import Envelope

MESSAGE_TYPE: Final = "task"
URL: Final = b"https://example.com/honda"


class Fleet(Struct, kw_only=True):
    """Who can be sent to: agent ids, and one list of requirements per group of capable agents."""

    agents: list[str]
    skills: list[list[str]]


def compose(number: int, sent_ns: int, fleet: Fleet) -> Envelope:
    """Return message `number`: even ones go to the next agent, odd ones to whoever has the next skill.

    Without skills all of them go to agents.
    """
    half = number >> 1
    envelope = Envelope(
        id=new_id(), message_type=MESSAGE_TYPE, created_at=datetime.now(UTC), content=_content(sent_ns)
    )
    if not fleet.skills:
        envelope.to_agent_id = fleet.agents[number % len(fleet.agents)]
    elif number & 1:
        envelope.requirements = fleet.skills[half % len(fleet.skills)]
    else:
        envelope.to_agent_id = fleet.agents[half % len(fleet.agents)]
    return envelope


def first_id_at(at_ms: int) -> str:
    """Return the lowest UUIDv7 of a millisecond (RFC 9562, section 5.7): the border of a range of ids."""
    digits = f"{at_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"


def _content(sent_ns: int) -> Raw:
    return Raw(b'{"sent_ns":%d,"url":"%b"}' % (sent_ns, URL))
