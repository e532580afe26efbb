"""Who gets a message: filters, preferences, bounds, and that the explanation tells the same story."""

from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from broker.core.directory import Directory
from broker.core.explanation import Drop, RouteBrief, RouteExplanation, brief, dropped_by, explain
from broker.core.routing import (
    Choice,
    NoCandidate,
    Quality,
    Rule,
    Shortage,
    check_named,
    choose,
    quality_weight,
    weigh,
)
from schema import limits
from schema.agent import Agent, AgentStatus
from schema.ids import shard_of
from schema.message import Envelope, Reason
from schema.times import from_ms

NOW = 1_800_000_000_000
IDS = [f"0190a0b0-0000-7000-8000-{number:012d}" for number in range(400)]
MESSAGE = Envelope(id=IDS[-1], message_type="task", root_id=IDS[-1])


class Table:
    """Loads as given."""

    def __init__(
        self, outstanding: dict[str, int] | None = None, quality: dict[str, Quality] | None = None
    ) -> None:
        self._outstanding = outstanding or {}
        self._quality = quality or {}

    def outstanding(self, agent_id: str) -> int:
        return self._outstanding.get(agent_id, 0)

    def quality(self, agent_id: str, capability: str) -> Quality:
        return self._quality.get(agent_id, Quality())


def agent(number: int, *capabilities: str, **changes: object) -> Agent:
    plain = Agent(
        id=IDS[number], name=f"agent_{number}", capabilities=capabilities or ("a",), heartbeat_ms=NOW
    )
    return replace(plain, **changes)


def directory_of(*agents: Agent) -> Directory:
    directory = Directory()
    for each in agents:
        directory.put(each)
    return directory


def chances(count: int) -> list[tuple[float, float]]:
    """Return points that fill the unit square evenly (R2 sequence), so that no test depends on luck."""
    return [(number * 0.7548776662 % 1.0, number * 0.5698402910 % 1.0) for number in range(1, count + 1)]


def routed(
    directory: Directory,
    loads: Table | None = None,
    envelope: Envelope = MESSAGE,
    *,
    requirements: Sequence[str] = ("a",),
    shard: int = 0,
    shards: int = 1,
    now: int = NOW,
    chance: tuple[float, float] = (0.3, 0.6),
    excluded: Sequence[str] = (),
) -> Choice | NoCandidate:
    return choose(
        envelope,
        requirements,
        directory,
        loads or Table(),
        shard=shard,
        shards=shards,
        now_ms=now,
        chance=chance,
        excluded=excluded,
    )


def chosen(
    directory: Directory, loads: Table | None = None, envelope: Envelope = MESSAGE, **how: object
) -> str:
    choice = routed(directory, loads, envelope, **how)  # type: ignore[arg-type]  # a table of overrides
    assert isinstance(choice, Choice)
    return choice.agent.name


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"hop": limits.HOP_MAX}, None),
        ({"hop": limits.HOP_MAX + 1}, Reason.HOP_LIMIT),
        ({"expires_at": from_ms(NOW)}, Reason.EXPIRED),
        ({"expires_at": from_ms(NOW + 1)}, None),
    ],
)
def test_a_message_that_may_not_go_on_ends_named_or_not(
    changes: dict[str, object], reason: Reason | None
) -> None:
    envelope = replace(MESSAGE, **changes)
    assert check_named(envelope, agent(0), NOW) is reason
    result = routed(directory_of(agent(0)), envelope=envelope)
    assert (result.ends if isinstance(result, NoCandidate) else None) is reason


@pytest.mark.parametrize(
    ("recipient", "reason"),
    [
        (None, Reason.UNKNOWN_RECIPIENT),
        (agent(0, status=AgentStatus.PAUSED), None),
        (agent(0, heartbeat_ms=0), None),
        (agent(0, accepts=("status",)), None),
        (agent(0, endpoint="http://127.0.0.1/"), None),
        (agent(0, status=AgentStatus.DISABLED), Reason.RECIPIENT_DISABLED),
        (agent(0, allow_from=(IDS[1],)), None),
        (agent(0, allow_from=(IDS[2],)), Reason.SENDER_NOT_ALLOWED),
        (agent(0, allow_from=()), Reason.SENDER_NOT_ALLOWED),
    ],
)
def test_a_named_recipient_gets_it_unless(recipient: Agent | None, reason: Reason | None) -> None:
    assert check_named(replace(MESSAGE, from_agent_id=IDS[1]), recipient, NOW) is reason


@pytest.mark.parametrize(
    ("agents", "changes", "requirements", "shortage"),
    [
        ([], {}, ("a",), Shortage.NOBODY_CAPABLE),
        ([agent(0)], {}, (), Shortage.NOTHING_REQUIRED),
        ([agent(0)], {}, ("a", "z"), Shortage.NOBODY_CAPABLE),
        ([agent(0, status=AgentStatus.PAUSED)], {}, ("a",), Shortage.NOBODY_ACTIVE),
        ([agent(0, status=AgentStatus.DISABLED)], {}, ("a",), Shortage.NOBODY_ACTIVE),
        ([agent(0, heartbeat_ms=NOW - 6 * 60_000)], {}, ("a",), Shortage.NOBODY_ONLINE),
        ([agent(0, accepts=("status",))], {}, ("a",), Shortage.NOBODY_ACCEPTING),
        ([agent(0, allow_from=(IDS[9],))], {}, ("a",), Shortage.NOBODY_ALLOWED),
        ([agent(0)], {"from_agent_id": IDS[0]}, ("a",), Shortage.NOBODY_ELSE),
    ],
)
def test_nobody_is_chosen_for_a_stated_reason(
    agents: list[Agent], changes: dict[str, object], requirements: tuple[str, ...], shortage: Shortage
) -> None:
    result = routed(directory_of(*agents), envelope=replace(MESSAGE, **changes), requirements=requirements)
    assert isinstance(result, NoCandidate)
    assert result.reason is shortage
    assert (result.ends is None) == (shortage is not Shortage.NOTHING_REQUIRED)


@pytest.mark.parametrize("shards", [1, 2])
def test_the_less_loaded_of_two_wins(shards: int) -> None:
    directory = directory_of(agent(0), agent(1))
    loads = Table({IDS[0]: 8, IDS[1]: 1})
    for chance in chances(50):
        for shard in range(shards):
            assert chosen(directory, loads, shard=shard, shards=shards, chance=chance) == "agent_1"


def test_load_is_relative_to_capacity() -> None:
    directory = directory_of(agent(0, max_concurrent_jobs=100), agent(1, max_concurrent_jobs=2))
    loads = Table({IDS[0]: 20, IDS[1]: 1})
    assert {chosen(directory, loads, chance=chance) for chance in chances(20)} == {"agent_0"}


@pytest.mark.parametrize(
    ("priority", "name"), [(1, "good"), (3, "good"), (5, "good"), (8, "idle"), (10, "idle")]
)
def test_urgent_messages_get_the_best_and_bulk_ones_spread(priority: int, name: str) -> None:
    directory = directory_of(agent(0, name="good"), agent(1, name="idle"))
    loads = Table({IDS[0]: 3}, {IDS[1]: Quality(success_rate=0.95, latency_ms=2_000.0)})
    envelope = replace(MESSAGE, priority=priority)
    assert {chosen(directory, loads, envelope, chance=chance) for chance in chances(20)} == {name}


@pytest.mark.parametrize("priority", range(1, 11))
def test_an_agent_that_fails_fast_does_not_attract_work(priority: int) -> None:
    directory = directory_of(agent(0, name="works"), agent(1, name="fails"))
    loads = Table({IDS[0]: 7}, {IDS[1]: Quality(success_rate=0.1, latency_ms=1.0)})
    assert chosen(directory, loads, replace(MESSAGE, priority=priority)) == "works"


def test_an_excluded_agent_is_not_chosen_again() -> None:
    directory = directory_of(*(agent(number) for number in range(5)))
    for chance in chances(50):
        assert chosen(directory, chance=chance, excluded=(IDS[0], IDS[1], IDS[2], IDS[4])) == "agent_3"
    result = routed(directory, excluded=IDS[:5])
    assert result == NoCandidate(Shortage.NOBODY_ELSE)


def test_candidates_of_the_own_shard_are_preferred_among_equals() -> None:
    directory = directory_of(*(agent(number) for number in range(40)))
    for chance in chances(50):
        choice = routed(directory, shard=1, shards=4, chance=chance)
        assert isinstance(choice, Choice)
        assert shard_of(choice.agent.id, 4) == 1
        assert choice.rule is Rule.OWN_SHARD
        assert choice.candidates == 40


def test_equally_busy_candidates_elsewhere_are_not_worth_a_forward() -> None:
    directory = directory_of(*(agent(number) for number in range(40)))
    loads = Table({IDS[number]: 9 for number in range(40)})
    rules = set()
    for chance in chances(50):
        choice = routed(directory, loads, shards=2, chance=chance)
        assert isinstance(choice, Choice)
        rules.add(choice.rule)
    assert rules == {Rule.OWN_SHARD}


def test_a_busy_own_shard_gives_way() -> None:
    agents = [agent(number) for number in range(40)]
    busy = Table({each.id: 9 for each in agents if shard_of(each.id, 2) == 0})
    directory = directory_of(*agents)
    elsewhere = sum(
        shard_of(IDS[int(chosen(directory, busy, shards=2, chance=chance)[6:])], 2) == 1
        for chance in chances(200)
    )
    # Two of two candidates lie in the own shard again in a quarter of the draws.
    assert elsewhere > 120


def test_nobody_in_the_own_shard_is_no_obstacle() -> None:
    outside = [agent(number) for number in range(40) if shard_of(IDS[number], 2) == 1]
    choice = routed(directory_of(*outside), shard=0, shards=2)
    assert isinstance(choice, Choice)
    assert choice.rule is Rule.TWO_CHOICES


def test_a_message_queues_at_the_least_loaded_when_everybody_is_full() -> None:
    directory = directory_of(*(agent(number) for number in range(10)))
    loads = Table({IDS[number]: 10 + number for number in range(10)})
    for chance in chances(50):
        choice = routed(directory, loads, chance=chance)
        assert isinstance(choice, Choice)
        assert (choice.agent.name, choice.rule) == ("agent_0", Rule.OVERFLOW)
        assert choice.score < 0


def test_the_only_one_with_room_is_found_among_the_full() -> None:
    directory = directory_of(*(agent(number) for number in range(limits.ROUTE_SCAN_MAX)))
    loads = Table({IDS[number]: 10 for number in range(limits.ROUTE_SCAN_MAX)} | {IDS[17]: 9})
    rules = set()
    for chance in chances(100):
        choice = routed(directory, loads, chance=chance)
        assert isinstance(choice, Choice)
        assert choice.agent.name == "agent_17"
        rules.add(choice.rule)
    assert rules == {Rule.TWO_CHOICES, Rule.RESAMPLED, Rule.SCANNED}


def test_an_agent_without_capacity_is_the_last_resort() -> None:
    directory = directory_of(agent(0, max_concurrent_jobs=0), agent(1))
    assert {chosen(directory, chance=chance) for chance in chances(20)} == {"agent_1"}
    assert chosen(directory_of(agent(0, max_concurrent_jobs=0))) == "agent_0"


def test_the_work_is_bounded_whatever_the_number_of_candidates() -> None:
    directory = directory_of(*(agent(number, max_concurrent_jobs=0) for number in range(390)))
    choice = routed(directory, shards=2)
    assert isinstance(choice, Choice)
    assert len(choice.sampled) <= 4 + limits.ROUTE_RESAMPLES_MAX + limits.ROUTE_SCAN_MAX


@pytest.mark.parametrize(("count", "shards"), [(2, 1), (3, 1), (10, 1), (50, 1), (50, 2)])
def test_with_equal_loads_everybody_gets_a_fair_part(count: int, shards: int) -> None:
    directory = directory_of(*(agent(number) for number in range(count)))
    draws = 200 * count
    got = Counter(
        chosen(directory, shard=number % shards, shards=shards, chance=chance)
        for number, chance in enumerate(chances(draws))
    )
    assert len(got) == count
    # The shards need not hold equally many agents, so that their parts differ by that.
    assert max(got.values()) < 2 * draws / count
    assert min(got.values()) > 0.4 * draws / count


def test_the_score_falls_with_load_failures_and_latency() -> None:
    def score(outstanding: int, success_rate: float, latency_ms: float) -> float:
        loads = Table({IDS[0]: outstanding}, {IDS[0]: Quality(success_rate, latency_ms)})
        return weigh(agent(0), "a", quality_weight(MESSAGE), loads).score

    assert score(0, 1.0, 0.0) == 1.0
    assert (
        score(1, 1.0, 0.0)
        > score(2, 1.0, 0.0)
        > score(9, 1.0, 0.0)
        > 0
        > score(10, 1.0, 0.0)
        > score(11, 1.0, 0.0)
    )
    assert score(0, 1.0, 10.0) > score(0, 0.9, 10.0) > score(0, 0.9, 1_000.0) > score(0, 0.0, 0.0) == 0


def explained(directory: Directory, loads: Table, envelope: Envelope, **how: object) -> RouteExplanation:
    arguments: dict[str, object] = {"shard": 0, "shards": 1, "now_ms": NOW, "chance": (0.3, 0.6)}
    return explain(envelope, ("a",), directory, loads, **(arguments | how))  # type: ignore[arg-type]  # overrides


def test_the_explanation_names_what_dropped_each_candidate() -> None:
    directory = directory_of(
        agent(0),
        agent(1, status=AgentStatus.PAUSED),
        agent(2, heartbeat_ms=0),
        agent(3, accepts=("status",)),
        agent(4, allow_from=(IDS[9],)),
        agent(5),
        agent(6),
        agent(7, "b"),
    )
    envelope = replace(MESSAGE, from_agent_id=IDS[5])
    told = explained(directory, Table({IDS[6]: 10}), envelope)
    assert {each.name: each.dropped_by for each in told.candidates} == {
        "agent_0": None,
        "agent_1": Drop.NOT_ACTIVE,
        "agent_2": Drop.SILENT,
        "agent_3": Drop.TYPE_NOT_ACCEPTED,
        "agent_4": Drop.SENDER_NOT_ALLOWED,
        "agent_5": Drop.IS_SENDER,
        "agent_6": Drop.AT_CAPACITY,
    }
    assert [each.name for each in told.candidates if each.chosen] == ["agent_0"]
    assert told.chosen == IDS[0]
    assert told.having == {"a": 7}
    remaining = msgspec.structs.astuple(told.remaining)
    assert remaining == (8, 7, 6, 5, 4, 3, 7, 1)


def test_the_explanation_is_bounded_and_holds_the_chosen_one() -> None:
    directory = directory_of(*(agent(number) for number in range(300)))
    told = explained(directory, Table(), MESSAGE, chance=(0.999, 0.998))
    assert len(told.candidates) == limits.EXPLAINED_CANDIDATES_MAX
    assert [each.agent_id for each in told.candidates if each.chosen] == [told.chosen]


def test_the_explanation_of_nobody_says_which_capability_is_missing() -> None:
    directory = directory_of(agent(0, "a"), agent(1, "a", "b"))
    told = explain(MESSAGE, ["a", "z"], directory, Table(), shard=0, shards=1, now_ms=NOW, chance=(0.1, 0.2))
    assert (told.chosen, told.rule, told.having) == (None, "nobody_capable", {"a": 2, "z": 0})
    assert told.candidates == []


def test_the_brief_is_json_with_the_choice_and_the_two_it_was_made_from() -> None:
    choice = routed(directory_of(agent(0), agent(1), agent(2)), Table({IDS[0]: 5}))
    assert isinstance(choice, Choice)
    stored = msgspec.json.decode(brief(choice), type=RouteBrief)
    assert (stored.chosen, stored.rule, stored.candidates) == (choice.agent.id, "two_choices", 3)
    assert [each.agent_id for each in stored.sampled] == [each.agent_id for each in choice.sampled]
    assert stored.score == max(each.score for each in stored.sampled)


AGENTS = st.lists(
    st.builds(
        lambda number, **changes: agent(number, **changes),
        st.integers(0, 30),
        capabilities=st.sampled_from([("a",), ("a", "b"), ("b",), ("c", "a", "b")]),
        status=st.sampled_from([AgentStatus.ACTIVE] * 4 + [AgentStatus.PAUSED]),
        heartbeat_ms=st.sampled_from([NOW] * 4 + [NOW - 10 * 60_000]),
        accepts=st.sampled_from([None, None, ("task",), ("status",)]),
        allow_from=st.sampled_from([None, None, (IDS[0],), (IDS[1],)]),
        max_concurrent_jobs=st.integers(0, 3),
    ),
    max_size=25,
    unique_by=lambda each: each.id,
)
CHANCE = st.floats(0, 1, exclude_max=True)


@given(
    agents=AGENTS,
    outstanding=st.dictionaries(st.sampled_from(IDS[:31]), st.integers(0, 4)),
    sender=st.sampled_from([None, *IDS[:4]]),
    excluded=st.lists(st.sampled_from(IDS[:31]), max_size=5),
    requirements=st.sampled_from([("a",), ("b",), ("b", "a"), ("c",), ("z",)]),
    shard=st.integers(0, 1),
    chance=st.tuples(CHANCE, CHANCE),
    priority=st.integers(1, 10),
)
@settings(deadline=None, max_examples=100)
def test_the_choice_is_one_the_explanation_would_not_have_dropped(
    agents: list[Agent],
    outstanding: dict[str, int],
    sender: str | None,
    excluded: list[str],
    requirements: tuple[str, ...],
    shard: int,
    chance: tuple[float, float],
    priority: int,
) -> None:
    directory, loads = directory_of(*agents), Table(outstanding)
    envelope = replace(MESSAGE, from_agent_id=sender, priority=priority, requirements=UNSET)
    choice = routed(
        directory,
        loads,
        envelope,
        requirements=requirements,
        shard=shard,
        shards=2,
        chance=chance,
        excluded=excluded,
    )
    drops = {
        each.id: dropped_by(each, envelope, directory, loads)
        for each in agents
        if set(requirements) <= set(each.capabilities) and each.id not in excluded
    }
    with_room = {agent_id for agent_id, drop in drops.items() if drop is None}
    full = {agent_id for agent_id, drop in drops.items() if drop is Drop.AT_CAPACITY}
    if with_room:
        assert isinstance(choice, Choice)
        assert choice.agent.id in with_room
    elif full:
        assert isinstance(choice, Choice)
        assert choice.agent.id in full
        assert choice.rule is Rule.OVERFLOW
    else:
        assert isinstance(choice, NoCandidate)


@given(agents=AGENTS, sender=st.sampled_from([None, *IDS[:4]]), chance=st.tuples(CHANCE, CHANCE))
@settings(deadline=None)
def test_explaining_marks_exactly_what_choosing_returns(
    agents: list[Agent], sender: str | None, chance: tuple[float, float]
) -> None:
    directory, envelope = directory_of(*agents), replace(MESSAGE, from_agent_id=sender)
    choice = routed(directory, envelope=envelope, shards=2, chance=chance)
    told = explained(directory, Table(), envelope, shards=2, chance=chance)
    expected = choice.agent.id if isinstance(choice, Choice) else None
    assert told.chosen == expected
    assert [each.agent_id for each in told.candidates if each.chosen] == ([expected] if expected else [])
    assert all(each.dropped_by in (None, Drop.AT_CAPACITY) for each in told.candidates if each.chosen)
