"""When failing endpoints are warned about and disabled, what changes a record, what its owner is told."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.bounce import is_automatic
from broker.core.health import STAGES_PERCENT, judged, notice_of, stage_of
from schema.agent import Agent, EndpointFault
from schema.health import Finding, Verdict
from schema.ids import new_id
from schema.message import Reason

HOUR = 3_600_000
FIVE_DAYS = 5 * 24 * HOUR
NOW = 1_800_000_000_000
SINCE = NOW - 10 * FIVE_DAYS
AGENT = Agent(id=new_id(), name="a", endpoint="http://example.com/", endpoint_since_ms=SINCE, updated_ms=NOW)


def failing(stage: int, *, since_ms: int = NOW, **more: object) -> Verdict:
    given = {"agent_id": AGENT.id, "finding": Finding.FAILING, "endpoint_since_ms": SINCE, "what": "timeout"}
    return Verdict(**{**given, "since_ms": since_ms, "at_ms": since_ms + 1_000, "stage": stage, **more})


@pytest.mark.parametrize(
    ("hours", "stage"),
    [(0, 0), (59.9, 0), (60, 1), (83.9, 1), (84, 2), (107.9, 2), (108, 3), (119.9, 3), (120, 4), (999, 4)],
)
def test_stages_are_reached_at_50_70_90_and_100_per_cent(hours: float, stage: int) -> None:
    assert stage_of(int(hours * HOUR), FIVE_DAYS) == stage


def test_each_stage_changes_the_record_once_and_the_last_disables() -> None:
    agent, changes = AGENT, []
    for stage in (1, 1, 2, 1, 3, 3, 4, 4, 1):
        after = judged(agent, failing(stage))
        changes.append(after != agent)
        agent = after
    assert changes == [True, False, True, False, True, False, True, False, False]
    assert (agent.endpoint_fault, agent.endpoint_disabled_ms) == (EndpointFault.FAILING, NOW + 1_000)
    assert agent.endpoint_failing_ms == NOW


def test_a_new_failing_is_warned_about_anew_and_an_older_one_no_more() -> None:
    warned = judged(AGENT, failing(3))
    again = judged(warned, failing(1, since_ms=NOW + FIVE_DAYS))
    assert (again.endpoint_failing_ms, again.endpoint_warned) == (NOW + FIVE_DAYS, 1)
    assert judged(again, failing(2)) is again


def test_a_recovery_ends_the_failing() -> None:
    recovered = judged(judged(AGENT, failing(2)), failing(0, finding=Finding.RECOVERED))
    assert (recovered.endpoint_failing_ms, recovered.endpoint_warned) == (0, 0)
    assert judged(AGENT, failing(0, finding=Finding.RECOVERED)) is AGENT


@pytest.mark.parametrize("finding", Finding)
@pytest.mark.parametrize(
    "agent",
    [
        pytest.param(msgspec.structs.replace(AGENT, endpoint=None), id="pulls"),
        pytest.param(msgspec.structs.replace(AGENT, endpoint_since_ms=SINCE + 1), id="another endpoint"),
        pytest.param(
            msgspec.structs.replace(AGENT, endpoint_fault=EndpointFault.GONE, endpoint_disabled_ms=NOW),
            id="disabled already",
        ),
    ],
)
def test_what_is_said_of_another_endpoint_changes_nothing(agent: Agent, finding: Finding) -> None:
    assert judged(agent, failing(4, finding=finding)) is agent


def test_a_410_disables_at_once() -> None:
    gone = judged(AGENT, failing(0, finding=Finding.GONE))
    assert (gone.endpoint_fault, gone.takes_work) == (EndpointFault.GONE, False)
    assert EndpointFault.GONE.refusal is Reason.GONE
    assert EndpointFault.FAILING.refusal is Reason.ENDPOINT_DISABLED


@given(st.integers(1, len(STAGES_PERCENT)))
def test_a_notice_says_what_happens_when_and_never_begets_another(stage: int) -> None:
    verdict = failing(stage)
    notice = notice_of(AGENT, verdict, disable_after_ms=FIVE_DAYS)
    assert notice is not None
    content = msgspec.json.decode(notice.content)
    assert (notice.to_agent_id, notice.from_agent_id) == (AGENT.id, None)
    assert is_automatic(notice.metadata)
    assert content["last_failure"] == "timeout"
    if stage < len(STAGES_PERCENT):
        assert (notice.message_type, content["percent"]) == ("warning", STAGES_PERCENT[stage - 1])
        assert content["disables_at"].startswith("2027-01-20")
    else:
        assert (notice.message_type, content["event"]) == ("error", "endpoint_disabled")
    again = notice_of(AGENT, verdict, disable_after_ms=FIVE_DAYS)
    assert again is not None
    assert again.id == notice.id
    other = notice_of(AGENT, failing(stage, since_ms=NOW + 1), disable_after_ms=FIVE_DAYS)
    assert other is not None
    assert other.id != notice.id


def test_of_a_recovery_nobody_is_told() -> None:
    assert notice_of(AGENT, failing(0, finding=Finding.RECOVERED), disable_after_ms=FIVE_DAYS) is None
