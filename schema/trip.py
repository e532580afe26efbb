"""What is stopped: trips (the broker found a loop) and kill switches (an operator said so)."""

from datetime import datetime

from msgspec import Struct

Pair = tuple[str, str]
"""Sender and recipient."""


class Trip(Struct, kw_only=True, frozen=True):
    """Two agents that were found looping. `sign`: by what (`repeat`, `alternation`); `both`: nothing goes
    either way, else nothing of the sender to the recipient."""

    id: str
    sign: str
    from_agent_id: str
    to_agent_id: str
    both: bool
    at_ms: int

    @property
    def directions(self) -> list[Pair]:
        """What is stopped."""
        there = (self.from_agent_id, self.to_agent_id)
        return [there, (there[1], there[0])] if self.both else [there]


class TripView(Struct, kw_only=True):
    """A trip as the HTTP contract shows it."""

    id: str
    sign: str
    from_agent_id: str
    to_agent_id: str
    both_ways: bool
    tripped_at: datetime


class TripReset(Struct, kw_only=True):
    """Reply to `DELETE /api/trips/{id}`."""

    success: bool
    trip_id: str


class LoopNotice(Struct, kw_only=True, frozen=True):
    """Content of the note that both agents get when their pair trips."""

    trip_id: str
    sign: str
    from_agent_id: str
    to_agent_id: str
    both_ways: bool


class KillSwitchRequest(Struct, kw_only=True):
    """Body of `POST /api/kill-switches`: an agent, two agents (`agent_id` and `peer_id`), or a `root_id`."""

    agent_id: str | None = None
    peer_id: str | None = None
    root_id: str | None = None
    reason: str | None = None


class KillSwitchView(Struct, kw_only=True):
    """A kill switch. `kind`: `agent`, `pair` or `root`."""

    id: str
    kind: str
    agent_id: str | None
    peer_id: str | None
    root_id: str | None
    reason: str | None
    created_at: datetime


class KillSwitchOff(Struct, kw_only=True):
    """Reply to `DELETE /api/kill-switches/{id}`."""

    success: bool
    kill_switch_id: str


LOOP_TYPE = "loop_detected"
"""The `message_type` of that note."""
