"""Server-Sent Events, read from lines. Pure; the format is the HTML standard's (section 9.2)."""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from schema.message import Json

_decode: Final = msgspec.json.Decoder(Json).decode


class StreamEvent(Struct, kw_only=True, frozen=True):
    """One event of a stream: `hello`, `message`, `presence`, `taken_over`, `closing`. `id`: hand it back as
    `last_event_id` to go on behind it."""

    name: str
    id: str | None
    data: Json


class EventReader:
    """Collects the lines of events. What is no event (comments, `retry`) passes unseen."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def feed(self, line: str) -> Iterator[StreamEvent]:
        """Take a line, without its end; yield the event it completes, if it does."""
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return
        fields, self._fields = self._fields, {}
        if "data" in fields:
            # The broker writes every event's data on one line.
            name = fields.get("event", "message")
            yield StreamEvent(name=name, id=fields.get("id"), data=_decode(fields["data"]))
