"""Errors of Redis, turned into ours by their stable first word; never by the rest of their text."""

from schema.errors import BrokerError, Fenced, StreamsFull, StreamsUnavailable

_DOWN = frozenset(
    (
        "LOADING",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MOVED",
        "ASK",
        "BUSY",
        "NOREPLICAS",
        "MISCONF",
    )
)


class StreamsFault(BrokerError):
    """Redis refused a command for a reason that is a fault of this program or of its set-up."""

    code = "streams_fault"


def as_broker_error(text: str) -> BrokerError:
    """Return our error for the text of a Redis error reply."""
    word = text.split(" ", 1)[0]
    if word == "FENCED":
        return Fenced(text)
    if word == "OOM":
        return StreamsFull("Redis is at its memory limit")
    if word in _DOWN:
        return StreamsUnavailable(f"Redis answers {word}")
    return StreamsFault(text)
