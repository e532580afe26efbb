"""Arguments that are more than a word: JSON, times."""

import argparse
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from broker.commands.running import Misuse
from schema.message import Json

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def json_of(text: str) -> Any:
    """Return JSON of any kind, read from stdin where the text is `-`. Raises: Misuse."""
    try:
        return msgspec.json.decode(sys.stdin.buffer.read() if text == "-" else text.encode())
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Misuse(f"not JSON: {error}") from None


def object_of(text: str) -> Json:
    """Return a JSON object, read from stdin where the text is `-`. Raises: Misuse."""
    value = json_of(text)
    if not isinstance(value, dict):
        raise Misuse('it must be a JSON object, like \'{"text": "hello"}\'')
    return value


def moment(text: str) -> datetime:
    """Return a time: RFC 3339 (without an offset: UTC), or how far from now (`+30m`, `-2h`, `+7d`)."""
    if text[:1] in "+-" and text[-1:] in _UNITS and text[1:-1].isdigit():
        distance = timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
        return datetime.now(UTC) + distance
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a time (2030-01-31T12:00:00Z) nor a distance from now (+30m, -2h)"
        ) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
