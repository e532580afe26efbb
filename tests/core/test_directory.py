"""The directory: names, silence, recycled slots, and an index that agrees with a plain filter."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from broker.core.directory import Directory
from broker.core.index import Index
from schema import limits
from schema.agent import Agent, AgentStatus
from schema.ids import new_id, shard_of

NOW = 1_800_000_000_000
IDS = [f"0190a0b0-0000-7000-8000-{number:012d}" for number in range(12)]
MINUTE = 60_000


def agent(number: int, *capabilities: str, **changes: object) -> Agent:
    plain = Agent(id=IDS[number], name=f"agent_{number}", capabilities=capabilities, heartbeat_ms=NOW)
    return replace(plain, **changes)


def directory_of(*agents: Agent, silent_after_ms: int = limits.SILENT_AFTER_MS) -> Directory:
    directory = Directory(silent_after_ms=silent_after_ms)
    for each in agents:
        directory.put(each)
    return directory


def candidates(
    directory: Directory, *required: str, kind: str = "task", sender: str | None = None, now: int = NOW
) -> set[str]:
    pool = directory.pool(required, kind, sender, now)
    return {directory.by_slot[slot].name for slot in pool.slots}


def test_an_agent_is_found_by_id_and_by_name() -> None:
    directory = directory_of(agent(0), agent(1))
    assert directory.resolve(IDS[1]) is directory.resolve("agent_1") is directory.get(IDS[1])
    assert directory.resolve("nobody") is None
    assert directory.get("agent_1") is None
    assert {each.name for each in directory.agents()} == {"agent_0", "agent_1"}
    assert len(directory) == 2


def test_a_renamed_agent_is_not_found_by_its_old_name() -> None:
    directory = directory_of(agent(0))
    directory.put(agent(0, name="other"))
    assert directory.resolve("agent_0") is None
    assert directory.resolve("other") == directory.get(IDS[0])


def test_a_name_that_passed_to_another_agent_stays_with_it() -> None:
    directory = directory_of(agent(0, name="x"))
    directory.put(agent(1, name="x"))
    directory.put(agent(0, name="y"))
    assert directory.resolve("x") == agent(1, name="x")
    directory.remove(IDS[0])
    assert directory.resolve("x") == agent(1, name="x")


def test_all_required_capabilities_are_needed() -> None:
    directory = directory_of(agent(0, "a"), agent(1, "a", "b"), agent(2, "b", "a", "c"), agent(3))
    assert candidates(directory, "a") == {"agent_0", "agent_1", "agent_2"}
    assert candidates(directory, "a", "b") == candidates(directory, "b", "a", "a") == {"agent_1", "agent_2"}
    assert candidates(directory, "a", "z") == candidates(directory) == set()


def test_a_cached_pool_sees_every_kind_of_change() -> None:
    directory = directory_of(agent(0, "a"), agent(1, "a"))
    assert candidates(directory, "a") == {"agent_0", "agent_1"}
    directory.put(agent(1, "b"))
    assert candidates(directory, "a") == {"agent_0"}
    directory.put(agent(2, "a"))
    assert candidates(directory, "a") == {"agent_0", "agent_2"}
    directory.put(agent(2, "a", status=AgentStatus.PAUSED))
    assert candidates(directory, "a") == {"agent_0"}
    directory.put(agent(2, "a", accepts=("task",)))
    assert candidates(directory, "a") == {"agent_0", "agent_2"}
    directory.put(agent(2, "a", accepts=("status",)))
    assert candidates(directory, "a") == {"agent_0"}
    directory.remove(IDS[0])
    assert candidates(directory, "a") == set()
    directory.put(agent(0, "a"))
    assert candidates(directory, "a") == {"agent_0"}


def test_a_capability_that_vanished_and_came_back_is_not_served_from_the_cache() -> None:
    directory = directory_of(agent(0, "a"))
    assert candidates(directory, "a") == {"agent_0"}
    directory.remove(IDS[0])
    directory.put(agent(1, "a"))
    assert candidates(directory, "a") == {"agent_1"}


def test_message_types_and_senders_are_filtered_for_those_who_restrict_them() -> None:
    directory = directory_of(
        agent(0, "a"),
        agent(1, "a", accepts=("task", "status")),
        agent(2, "a", allow_from=(IDS[5],)),
        agent(3, "a", accepts=(), allow_from=()),
    )
    assert candidates(directory, "a") == {"agent_0", "agent_1"}
    assert candidates(directory, "a", kind="ping") == {"agent_0"}
    assert candidates(directory, "a", sender=IDS[5]) == {"agent_0", "agent_1", "agent_2"}
    assert candidates(directory, "a", kind="ping", sender=IDS[6]) == {"agent_0"}


def test_a_silent_agent_is_no_candidate_until_it_is_heard_again() -> None:
    directory = directory_of(agent(0, "a"), agent(1, "a"))
    assert not directory.heard(IDS[1], NOW + 4 * MINUTE)  # it was not silent
    assert candidates(directory, "a", now=NOW + 5 * MINUTE) == {"agent_0", "agent_1"}
    assert candidates(directory, "a", now=NOW + 5 * MINUTE + 1_000) == {"agent_1"}
    assert not directory.heard(IDS[0], NOW + 1)  # a late report of an old heartbeat
    assert candidates(directory, "a", now=NOW + 5 * MINUTE + 1_000) == {"agent_1"}
    assert directory.heard(IDS[0], NOW + 6 * MINUTE)
    assert not directory.heard(IDS[9], NOW + 6 * MINUTE)  # nobody
    assert candidates(directory, "a", now=NOW + 6 * MINUTE) == {"agent_0", "agent_1"}
    assert candidates(directory, "a", now=NOW + 60 * MINUTE) == set()


def test_an_agent_loaded_with_an_old_heartbeat_is_silent() -> None:
    directory = directory_of(agent(0, "a", heartbeat_ms=NOW - 10 * MINUTE), agent(1, "a", heartbeat_ms=0))
    assert candidates(directory, "a") == set()
    directory.put(agent(2, "a", heartbeat_ms=NOW - 10 * MINUTE))
    assert candidates(directory, "a") == set()


def test_replacing_an_agent_does_not_forget_when_it_was_heard() -> None:
    directory = directory_of(agent(0, "a"))
    directory.heard(IDS[0], NOW + 4 * MINUTE)
    directory.put(agent(0, "a", "b", heartbeat_ms=NOW - MINUTE))
    assert candidates(directory, "b", now=NOW + 8 * MINUTE) == {"agent_0"}


def test_a_recycled_slot_brings_nothing_of_its_former_owner() -> None:
    directory = directory_of(agent(0, "a", "b", accepts=("task",), allow_from=(IDS[3],)))
    directory.heard(IDS[0], NOW + 10 * MINUTE)
    directory.remove(IDS[0])
    directory.put(agent(1, "a"))
    assert len(directory.by_slot) == 1
    assert candidates(directory, "a") == {"agent_1"}
    assert candidates(directory, "b", sender=IDS[3]) == set()
    assert directory.last_heard_ms(IDS[1]) == NOW
    assert candidates(directory, "a", now=NOW + 6 * MINUTE) == set()


def test_an_agent_that_comes_and_goes_leaves_nothing_behind() -> None:
    directory = directory_of()
    for second in range(100):
        directory.put(agent(0, "a", heartbeat_ms=NOW + second * 1_000))
        directory.remove(IDS[0])
    directory.put(agent(0, "a", heartbeat_ms=NOW + 600_000))
    directory.sweep(NOW + 600_000)
    assert [len(slots) for slots in directory._silence._buckets.values()] == [1]


def test_online_lasts_a_minute() -> None:
    directory = directory_of(agent(0))
    assert directory.is_online(IDS[0], NOW + MINUTE)
    assert not directory.is_online(IDS[0], NOW + MINUTE + 1)
    assert not directory.is_online(IDS[1], NOW)


def test_candidates_of_a_shard_follow_agents_that_come_and_go() -> None:
    directory = directory_of(*(agent(number, "a") for number in range(8)))

    def in_shard(shard: int, shards: int) -> set[str]:
        pool = directory.pool(("a",), "task", None, NOW)
        return {directory.by_slot[slot].id for slot in pool.in_shard(shard, shards, directory.index)}

    def expected(shard: int, shards: int) -> set[str]:
        return {each.id for each in directory.agents() if shard_of(each.id, shards) == shard}

    for shards in (2, 3):
        assert [in_shard(shard, shards) for shard in range(shards)] == [
            expected(shard, shards) for shard in range(shards)
        ]
        directory.remove(IDS[0])
        directory.put(agent(9, "a"))
        assert [in_shard(shard, shards) for shard in range(shards)] == [
            expected(shard, shards) for shard in range(shards)
        ]


def test_the_cache_of_pools_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.index.ROUTE_POOLS_MAX", 5)
    index = Index()
    for slot in range(12):
        index.add(slot, agent(slot, f"capability_{slot}"))
        index.set_heard(slot, agent(slot, f"capability_{slot}"))
    for _ in range(2):
        for slot in range(12):
            assert list(index.pool((f"capability_{slot}",), "task", None).slots) == [slot]
            assert len(index._pools) <= 5


SILENT_AFTER = 1_600  # buckets of 100 ms
CAPABILITIES = st.lists(st.sampled_from("abc"), max_size=3).map(tuple)
NUMBERS = st.integers(0, 7)


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens, the index answers as a plain look at every agent would."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Directory(silent_after_ms=SILENT_AFTER)
        self.agents: dict[str, Agent] = {}
        self.heard: dict[str, int] = {}
        self.now = NOW
        self.directory.sweep(NOW)

    @rule(
        number=NUMBERS,
        capabilities=CAPABILITIES,
        status=st.sampled_from(AgentStatus),
        accepts=st.none() | st.lists(st.sampled_from(["task", "status"]), max_size=2).map(tuple),
        allow_from=st.none() | st.lists(st.sampled_from(IDS[:3]), max_size=2).map(tuple),
        age=st.integers(0, 2 * SILENT_AFTER),
        rename=st.booleans(),
    )
    def put(
        self,
        number: int,
        capabilities: tuple[str, ...],
        status: AgentStatus,
        accepts: tuple[str, ...] | None,
        allow_from: tuple[str, ...] | None,
        age: int,
        rename: bool,
    ) -> None:
        each = agent(
            number,
            *capabilities,
            status=status,
            accepts=accepts,
            allow_from=allow_from,
            heartbeat_ms=self.now - age,
            name=f"renamed_{number}" if rename else f"agent_{number}",
        )
        self.directory.put(each)
        self.agents[each.id] = each
        self.heard[each.id] = max(self.heard.get(each.id, 0), each.heartbeat_ms)

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        self.directory.remove(IDS[number])
        self.agents.pop(IDS[number], None)
        self.heard.pop(IDS[number], None)

    @rule(number=NUMBERS, age=st.integers(0, 2 * SILENT_AFTER))
    def is_heard(self, number: int, age: int) -> None:
        self.directory.heard(IDS[number], self.now - age)
        if IDS[number] in self.heard:
            self.heard[IDS[number]] = max(self.heard[IDS[number]], self.now - age)

    @rule(step=st.integers(0, SILENT_AFTER))
    def time_passes(self, step: int) -> None:
        self.now += step
        self.directory.sweep(self.now)

    def is_available(self, each: Agent) -> bool:
        bucket = SILENT_AFTER // 16
        is_there = self.heard[each.id] // bucket >= (self.now - SILENT_AFTER) // bucket
        return is_there and each.status is AgentStatus.ACTIVE

    @invariant()
    def the_index_agrees_with_a_plain_filter(self) -> None:
        for required in (("a",), ("a", "b"), ("c", "b", "a")):
            for kind in ("task", "status", "ping"):
                for sender in (None, IDS[0], IDS[9]):
                    expected = {
                        each.id
                        for each in self.agents.values()
                        if self.is_available(each)
                        and set(required) <= set(each.capabilities)
                        and (each.accepts is None or kind in each.accepts)
                        and (each.allow_from is None or sender in each.allow_from)
                    }
                    pool = self.directory.pool(required, kind, sender, self.now)
                    assert {self.directory.by_slot[slot].id for slot in pool.slots} == expected

    @invariant()
    def names_and_ids_lead_to_the_same_agents(self) -> None:
        assert {each.id: each for each in self.directory.agents()} == self.agents
        for each in self.agents.values():
            assert self.directory.resolve(each.name) == self.directory.resolve(each.id) == each

    @invariant()
    def slots_are_used_again(self) -> None:
        assert len(self.directory.by_slot) <= 8


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_an_id_in_capitals_names_the_same_agent():
    directory = Directory()
    agent = Agent(id=new_id(), name="Scraper")
    directory.put(agent)
    assert directory.resolve(agent.id.upper()) is agent
    assert directory.resolve("Scraper") is agent
    assert directory.resolve("scraper") is None
