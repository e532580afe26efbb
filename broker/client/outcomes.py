"""What may become of a message an agent was handed, and how a handler's end is read as that.

Pure. Every way in (poll, socket, webhook) tells the broker the same three things in its own words.
"""

from typing import Any, Final

from msgspec import Struct

from schema.codec import encode
from schema.message import Json

REASON_CHARS_MAX: Final = 500
"""The broker takes no longer reason; the rest of an exception's text is cut."""
RETRY_S: Final = 5.0


class Processed(Struct, frozen=True):
    """The message is done. `reply`: content that goes back to its sender as a `response`."""

    result: Any = None  # any JSON
    reply: Json | None = None


class Failed(Struct, frozen=True):
    """The message cannot be dealt with; it does not come again."""

    reason: str


class Again(Struct, frozen=True):
    """Not now: the message stays unacknowledged and is handled again after a while."""

    after_s: float


Outcome = Processed | Failed | Again


class Retry(Exception):
    """Raised by a handler that cannot work on a message now: it comes again after `after` seconds."""

    def __init__(self, after: float = RETRY_S) -> None:
        super().__init__(f"again after {after} s")
        self.after_s = max(after, 0.0)


def of_value(value: Any, *, answers: bool) -> Outcome:  # whatever a handler returned
    """Return the outcome of a handler that returned.

    `answers`: the message has a sender who may be waiting, so what was returned goes back to it too. An
    object is the reply's content as it is; any other value lies in it as `result`.
    """
    try:
        encode(value)
    except (TypeError, ValueError, OverflowError) as error:
        return Failed(_cut(f"the handler returned what is no JSON: {error}"))
    if value is None or not answers:
        return Processed(value)
    return Processed(value, value if isinstance(value, dict) else {"result": value})


def of_error(error: Exception) -> Outcome:
    """Return the outcome of a handler that raised."""
    if isinstance(error, Retry):
        return Again(error.after_s)
    said = str(error)
    return Failed(_cut(f"{type(error).__name__}: {said}" if said else type(error).__name__))


def _cut(text: str) -> str:
    # PostgreSQL stores no NUL.
    text = text.replace("\x00", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= REASON_CHARS_MAX else text[: REASON_CHARS_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"
