"""Errors of Redis, turned into ours by their stable first word; never by the rest of their text."""

from schema.errors import BrokerError, Fenced, StreamsFull, StreamsUnavailable

_DOWN = frozenset(
    (
        "LOADING",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "BUSY",
        "NOREPLICAS",
        "MISCONF",
    )
)

_REDIRECTS = frozenset(("MOVED", "ASK"))


class StreamsFault(BrokerError):
    """Redis refused a command for a reason that is a fault of this program or of its set-up."""

    code = "streams_fault"


class Redirected(StreamsUnavailable):
    """Another node of the cluster serves the key; the command was not done.

    `host`: empty where the node that answered does not know the other's. `is_asking`: the slot is being
    moved, and only this one command is to be tried there.
    """

    def __init__(self, text: str) -> None:
        word, slot, place = text.split(" ", 2)
        super().__init__(f"Redis answers {word}")
        host, _, port = place.strip().rpartition(":")
        self.is_asking = word == "ASK"
        self.slot = int(slot)
        self.host = host
        self.port = int(port)


def as_broker_error(text: str) -> BrokerError:
    """Return our error for the text of a Redis error reply."""
    word = text.split(" ", 1)[0]
    if word == "FENCED":
        return Fenced(text)
    if word == "OOM":
        return StreamsFull("Redis is at its memory limit")
    if word in _REDIRECTS:
        return Redirected(text)
    if word in _DOWN:
        return StreamsUnavailable(f"Redis answers {word}")
    return StreamsFault(text)
