"""When an endpoint that only fails is warned about and disabled, and what its owner is told. Pure.

Theory of operation. An endpoint begins to fail when its breaker opens, and fails until a push succeeds.
While it does, each failure is asked how much of the time it may fail has passed: at 50, 70 and 90 per cent
its owner is warned, at 100 it is disabled. Without traffic there are no failures, and nothing happens: time
alone is no evidence. A 410 disables at once. A jump over several stages is told of once, with the highest.

Invariants: a stage is told once per failing; a finding about an endpoint of before changes nothing.
"""

from datetime import datetime
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from broker.core.bounce import AUTOMATIC
from schema.agent import Agent, EndpointFault
from schema.codec import encode
from schema.health import Finding, Verdict
from schema.limits import NOTICE_MS
from schema.message import Envelope
from schema.times import from_ms

STAGES_PERCENT: Final = (50, 70, 90, 100)
WARNING_TYPE: Final = "warning"
DISABLED_TYPE: Final = "error"
_NOTICE_PRIORITY: Final = 3


class Notice(Struct, kw_only=True, frozen=True):
    """The content of a message to the owner of an endpoint. `subject` and `body` are for people."""

    event: str
    subject: str
    body: str
    reason: str
    failing_since: datetime | UnsetType = UNSET
    percent: int | UnsetType = UNSET
    disables_at: datetime | UnsetType = UNSET
    last_failure: str | UnsetType = UNSET


def stage_of(failing_for_ms: int, disable_after_ms: int) -> int:
    """Return how many stages an endpoint that fails for so long has reached."""
    return sum(100 * failing_for_ms >= percent * disable_after_ms for percent in STAGES_PERCENT)


def judged(agent: Agent, verdict: Verdict) -> Agent:
    """Return the record a verdict makes of an agent; the same one where it says nothing new."""
    if agent.endpoint is None or agent.endpoint_fault is not None:
        return agent
    if verdict.endpoint_since_ms != agent.endpoint_since_ms:
        # Of an endpoint it had before, or from before somebody asked to try this one again.
        return agent
    if verdict.finding is Finding.GONE:
        return _disabled(agent, EndpointFault.GONE, verdict)
    if verdict.finding is Finding.RECOVERED:
        return _changed(agent, verdict, endpoint_failing_ms=0, endpoint_warned=0)
    told = agent.endpoint_warned if agent.endpoint_failing_ms == verdict.since_ms else 0
    if verdict.since_ms < agent.endpoint_failing_ms or verdict.stage <= told:
        return agent
    if verdict.stage >= len(STAGES_PERCENT):
        return _disabled(agent, EndpointFault.FAILING, verdict)
    return _changed(agent, verdict, endpoint_failing_ms=verdict.since_ms, endpoint_warned=verdict.stage)


def notice_of(agent: Agent, verdict: Verdict, *, disable_after_ms: int) -> Envelope | None:
    """Return what the owner is told of a verdict that has changed the record; None: nothing.

    Its id follows from the verdict, so that the same one is told once.
    """
    if verdict.finding is Finding.RECOVERED:
        return None
    percent = STAGES_PERCENT[verdict.stage - 1] if verdict.finding is Finding.FAILING else 100
    content = _warning(verdict, percent, disable_after_ms) if percent < 100 else _disabling(verdict)
    name = f"agent-broker:endpoint:{agent.id}:{verdict.finding.value}:{verdict.since_ms}:{verdict.stage}"
    return Envelope(
        id=str(uuid5(NAMESPACE_URL, name)),
        to_agent_id=agent.id,
        message_type=WARNING_TYPE if percent < 100 else DISABLED_TYPE,
        priority=_NOTICE_PRIORITY,
        content=Raw(encode(content)),
        metadata=AUTOMATIC,
        created_at=from_ms(verdict.at_ms),
        expires_at=from_ms(verdict.at_ms + NOTICE_MS),
    )


def _changed(agent: Agent, verdict: Verdict, **fields: object) -> Agent:
    after = replace(agent, **fields)
    return agent if after == agent else replace(after, updated_ms=max(verdict.at_ms, agent.updated_ms + 1))


def _disabled(agent: Agent, fault: EndpointFault, verdict: Verdict) -> Agent:
    failing_ms = verdict.since_ms if fault is EndpointFault.FAILING else 0
    return _changed(
        agent,
        verdict,
        endpoint_fault=fault,
        endpoint_disabled_ms=verdict.at_ms,
        endpoint_failing_ms=failing_ms,
        endpoint_warned=verdict.stage,
    )


def _warning(verdict: Verdict, percent: int, disable_after_ms: int) -> Notice:
    since, ends = from_ms(verdict.since_ms), from_ms(verdict.since_ms + disable_after_ms)
    return Notice(
        event="endpoint_failing",
        subject=f"Your endpoint fails: {percent} % of the time until it is disabled has passed",
        body=f"Every push to your endpoint has failed since {since:%Y-%m-%d %H:%M} UTC. If that goes on, it "
        f"is disabled at {ends:%Y-%m-%d %H:%M} UTC, and what waits for it goes back to its senders.",
        reason=Finding.FAILING.value,
        failing_since=since,
        percent=percent,
        disables_at=ends,
        last_failure=verdict.what or UNSET,
    )


def _disabling(verdict: Verdict) -> Notice:
    gone = verdict.finding is Finding.GONE
    why = "It answered 410 Gone." if gone else "Every push to it has failed for days."
    return Notice(
        event="endpoint_disabled",
        subject="Your endpoint was disabled",
        body=f"{why} Nothing is pushed to it any more, and messages for you end as failed. Change the "
        "agent's `endpoint`, or set `endpoint_status` to `active` to have the same one tried again; failed "
        "messages can be replayed then.",
        reason=verdict.finding.value,
        failing_since=UNSET if gone else from_ms(verdict.since_ms),
        last_failure=verdict.what or UNSET,
    )
