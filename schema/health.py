"""What is said about endpoints that are in trouble, between the worker that sees it and the keeper that
writes it down."""

from enum import Enum

from msgspec import Struct

from schema.quick import quick


@quick
class Finding(Enum):
    """GONE: it answered 410. FAILING: it has done nothing but fail for `percent` of the time it may.
    RECOVERED: it answers again, after its owner was warned."""

    GONE = "gone"
    FAILING = "failing"
    RECOVERED = "recovered"


class Failing(Struct, array_like=True):
    """What a shard remembers of an endpoint that fails: since when, the stage (how many of
    `health.STAGES_PERCENT`) its owner has been told of, and which endpoint: the agent's of that time."""

    since_ms: int
    told: int = 0
    endpoint_since_ms: int = 0


class Verdict(Struct, kw_only=True, omit_defaults=True):
    """One finding about the endpoint the agent has had since `endpoint_since_ms`, and no other. `since_ms`:
    when it began to fail; else the moment of the finding. `what`: how the last push failed, one word."""

    agent_id: str
    finding: Finding
    endpoint_since_ms: int
    since_ms: int
    at_ms: int
    stage: int = 0
    what: str = ""
