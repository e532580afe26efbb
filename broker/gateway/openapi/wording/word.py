"""One word of the contract: what a field means, an example, and the bounds its type leaves to the checks."""

from datetime import datetime
from typing import Any, Final

from msgspec import Struct, field

from schema.limits import AGENT_NAME_CHARS_MAX

Facets = dict[str, Any]  # parts of a JSON Schema
Words = dict[str, "Word"]
"""By `Type.field` or by `field`."""

AN_ID: Final = "01939f2c-7c1e-7a33-9d4b-5f0c3f1a2b4d"
AN_AGENT: Final = "01939f2c-5b10-7c44-8f21-0d9e8c7b6a51"
A_MOMENT: Final = "2026-01-15T09:30:00Z"
A_LATER_MOMENT: Final = "2026-01-15T18:00:00Z"
assert datetime.fromisoformat(A_MOMENT) < datetime.fromisoformat(A_LATER_MOMENT)


class Word(Struct, frozen=True):
    """What a field means. `asked` is added to its schema where a client sends it, `shown` where the gateway
    does."""

    text: str
    example: Any = None  # any JSON
    asked: Facets = field(default_factory=dict)
    shown: Facets = field(default_factory=dict)


def both(**facets: Any) -> dict[str, Facets]:  # Any: parts of a JSON Schema
    """Return facets for either direction."""
    return {"asked": facets, "shown": facets}


def agent(text: str) -> Word:
    """A reference to an agent: name or UUID where it is sent, always the UUID where it is shown."""
    asked = {"minLength": 1, "maxLength": AGENT_NAME_CHARS_MAX}
    return Word(f"{text} Its UUID or its name.", AN_AGENT, asked, {"format": "uuid"})


def id_(text: str, example: str | None = AN_ID) -> Word:
    """A UUID."""
    return Word(text, example, **both(format="uuid"))


def choice(text: str, *choices: str) -> Word:
    """One of a closed set; the first is the example."""
    return Word(text, choices[0], **both(enum=list(choices)))


def moment(text: str, example: str | None = A_MOMENT) -> Word:
    """A point in time."""
    return Word(text, example, **both(format="date-time"))


def text(meaning: str, example: str | None, chars_max: int, *, chars_min: int = 0) -> Word:
    """Text with bounds on what is sent."""
    asked = {"maxLength": chars_max} | ({"minLength": chars_min} if chars_min else {})
    return Word(meaning, example, asked=asked)


def whole(text: str, example: int | None, least: int, most: int) -> Word:
    """A whole number with bounds on what is sent."""
    return Word(text, example, asked={"minimum": least, "maximum": most}, shown={"minimum": 0})


def count(text: str, example: int = 1) -> Word:
    """How many."""
    return Word(text, example, shown={"minimum": 0})


def object_(text: str, example: dict[str, Any]) -> Word:  # Any: JSON
    """Any JSON object."""
    return Word(text, example, **both(type="object"))
