"""What a dry run of routing says."""

from msgspec import Struct


class RemainingView(Struct, kw_only=True):
    """How many agents each filter left, in the order they apply; `below_capacity` of the `examined` only."""

    registered: int
    capable: int
    active: int
    heard: int
    accepting: int
    allowed: int
    examined: int
    below_capacity: int


class CandidateView(Struct, kw_only=True):
    """A capable agent. `dropped_by`: the first filter it did not pass (null: none)."""

    agent_id: str
    name: str
    dropped_by: str | None
    load: float
    success_rate: float
    latency_ms: float
    score: float
    chosen: bool


class ExplainReply(Struct, kw_only=True):
    """Reply to `POST /api/route/explain`.

    `by`: `name` or `capability`. `outcome`: `chosen`, `parked` (nobody can take it now: it would wait) or
    `refused` (it would end at once). `reason`: how it was chosen, or why not. `to_agent_id`: who would get
    it; among equals chance decides anew each time. `notes`: what this answer cannot know.
    """

    by: str
    outcome: str
    reason: str
    to_agent_id: str | None
    requirements: list[str]
    having: dict[str, int]
    remaining: RemainingView | None
    candidates: list[CandidateView]
    notes: list[str]
