"""The scripts and what calls them, on a real Redis: whatever happens in whatever order, whoever dies.

After every step: each message is in exactly one place (an ingress, where it may lie as often as it was
published; parked; scheduled; a mailbox; handed over directly, to a delivery owner that knows of it; or ended,
in the ledger), it has ended once at most, its recorded attempts run 1, 2, 3 ... up to its limit, it was never
sent to two agents, what lies in the mailbox of an endpoint is on the active set, and what may expire is on
the set of what expires. At the end everything is worked off, and nothing of any message is left in Redis.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cluster import one_server
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import UNSET, Raw, structs

from broker.core.fold import MessageRow
from broker.core.lanes import WEIGHTS
from broker.core.lifecycle import Party, is_terminal, may_set
from broker.core.replay import next_round
from broker.core.retry import Verdict, attempts_max
from broker.streams.acknowledgement import Acknowledged
from broker.streams.keys import mailbox_owner
from model.courier import Hands
from model.former import stale_calls
from model.reference import Name, Places, Told, look, name_of
from model.stage import SHARDS, TRADES, Stage, shard_number
from model.wire import Crash
from schema.agent import Agent, AgentStatus
from schema.codec import encode, options_of
from schema.dead_letter import DeadLetter
from schema.errors import Fenced
from schema.message import LANES, Envelope, Lane, Status

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "40"))
STEPS = int(os.environ.get("MODEL_STEPS", "40"))
"""In CI always the same ones, in half a minute; `make model EXAMPLES=5000` takes others each time."""
MESSAGES_MAX = 12
DAY_MS = 24 * 3_600_000
PRIORITY = {Lane.HIGH: 1, Lane.NORMAL: 5, Lane.LOW: 9}

pick = st.integers(0, 11)
"""Which of those there are."""
shards = st.integers(0, SHARDS - 1)
crashes = st.sampled_from([Crash.NONE, Crash.NONE, Crash.NONE, Crash.BEFORE, Crash.AFTER])
hands = st.sampled_from([Hands.DIRECT, Hands.DIRECT, Hands.MAILBOX, Hands.APART])
verdicts = st.sampled_from(
    [Verdict.DELIVERED, Verdict.RETRY, Verdict.RETRY, Verdict.REJECTED_RETRY, Verdict.GONE]
)


def id_of(number: int) -> str:
    """Return an id; the same in every run, so that what failed once fails again."""
    return f"0193a1b2-c3d4-7000-8000-{number:012x}"


def agents() -> dict[str, Agent]:
    """In each shard one that is pushed to, one that pulls, and one of each that can do sums."""
    made: dict[str, Agent] = {}
    number = 1_000_000
    for shard in range(SHARDS):
        for capabilities in ((), ("sums",)):
            for endpoint in ("http://127.0.0.1:9/", None):
                number += 1
                while shard_number(id_of(number)) != shard:
                    number += 1
                made[id_of(number)] = Agent(
                    id=id_of(number),
                    name=f"agent-{number}",
                    endpoint=endpoint,
                    capabilities=capabilities,
                    heartbeat_ms=int(datetime.now(UTC).timestamp() * 1000),
                )
    return made


class Broker(RuleBasedStateMachine):
    """The reference: what was published, and what the sender has said of it since."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(self.url)
        self.agents = agents()
        self.published: dict[Name, Envelope] = {}
        self.cancelled: set[Name] = set()
        self.told = Told()
        self.places = Places()
        self.todo = self.stage.todo()
        self.sound = True
        """Whether the invariants held when they were last looked at."""
        self.passed_over = {(shard, lane): 0 for shard in range(SHARDS) for lane in LANES}
        """How many entries of other lanes were routed since a lane with something in it had its turn."""

    @initialize()
    def begin(self) -> None:
        for agent in self.agents.values():
            self.stage.directory.put(agent)

    @initialize()
    def some_are_under_way(self) -> None:
        """In each shard messages were just handed over directly: by chance that is rare."""
        self.begin()
        pushed = [agent.id for agent in self.agents.values() if agent.endpoint is not None]
        for number, agent_id in enumerate(pushed):
            envelope = Envelope(
                id=id_of(2_000_000 + number),
                to_agent_id=agent_id,
                content=Raw(b"{}"),
                metadata=Raw(b"{}"),
                created_at=datetime.now(UTC),
            )
            self.published[name_of(envelope)] = envelope
            self.stage.publish(envelope)
        for shard in range(SHARDS):
            self.stage.route(shard, len(pushed), Crash.NONE)

    def teardown(self) -> None:
        try:
            if self.sound:  # else what is wrong is known already
                self.work_off()
        finally:
            self.stage.close()

    # --- senders --------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.published) < MESSAGES_MAX)
    @rule(
        to=st.one_of(st.none(), pick),
        lane=st.sampled_from(LANES),
        retries=st.one_of(st.none(), st.integers(0, 2)),
        expires=st.booleans(),
        scheduled=st.sampled_from([False, False, False, True]),
    )
    def publish(
        self, to: int | None, lane: Lane, retries: int | None, expires: bool, scheduled: bool
    ) -> None:
        now = datetime.now(UTC)
        ids = sorted(self.agents)
        envelope = Envelope(
            id=id_of(len(self.published)),
            to_agent_id=None if to is None else ids[to % len(ids)],
            requirements=["sums"] if to is None else UNSET,
            priority=PRIORITY[lane],
            metadata=Raw(encode({} if retries is None else {"max_retries": retries})),
            created_at=now,
            expires_at=now + timedelta(hours=1) if expires else None,
            deliver_at=now + timedelta(minutes=30) if scheduled else UNSET,
        )
        self.published[name_of(envelope)] = envelope
        self.stage.publish(envelope)

    @precondition(lambda self: self.published)
    @rule(which=pick)
    def publish_again(self, which: int) -> None:
        self.stage.publish(list(self.published.values())[which % len(self.published)])

    @precondition(lambda self: self.rows(Status.PENDING))
    @rule(which=pick)
    def cancel(self, which: int) -> None:
        rows = self.rows(Status.PENDING)
        row = rows[which % len(rows)]
        assert may_set(Party.SENDER, row.status, Status.CANCELLED)
        row.status = Status.CANCELLED
        self.cancelled.add((row.id, row.round))
        self.stage.drop(row.id)

    @precondition(
        lambda self: self.rows(Status.FAILED, Status.EXPIRED) and len(self.published) < MESSAGES_MAX
    )
    @rule(which=pick)
    def replay(self, which: int) -> None:
        rows = self.rows(Status.FAILED, Status.EXPIRED)
        row = rows[which % len(rows)]
        envelope = row.message
        assert envelope is not None
        by_choice = row.route is not None
        wanted = envelope.requirements if isinstance(envelope.requirements, list) else None
        again = next_round(
            _letter(row, envelope),
            requirements=wanted,
            chosen=by_choice,
            now=datetime.now(UTC),
            age_ms_max=DAY_MS,
        )
        assert isinstance(again, Envelope)
        row.round, row.status, row.reason, row.retry_count = row.round + 1, Status.PENDING, None, 0
        row.next_attempt_ms = row.delivered_ms = row.processed_ms = row.mailbox_entry = None
        row.to = again.to_agent_id
        self.published[name_of(again)] = again
        self.stage.publish(again)

    # --- routing --------------------------------------------------------------------------------------

    @precondition(lambda self: self.todo["ingress"])
    @rule(
        which=pick,
        room=st.integers(1, 8),
        crash=crashes,
        chance=st.sampled_from([0.0, 0.4, 0.9]),
        hands=hands,
        overtaken=st.sampled_from([False, False, False, True]),
    )
    def route(
        self, which: int, room: int, crash: Crash, chance: float, hands: Hands, overtaken: bool
    ) -> None:
        self.stage.chance = chance
        shard = self.one_of("ingress", which)
        lanes = self.stage.route(shard, room, crash, hands, overtaken=overtaken)
        total = sum(taken for _, taken in lanes)
        for lane, (waited, taken) in zip(LANES, lanes, strict=False):
            others = sum(weight for other, weight in WEIGHTS.items() if other is not lane)
            passed_over = self.passed_over[shard, lane] + total - taken
            self.passed_over[shard, lane] = passed_over if waited and not taken else 0
            assert passed_over <= 2 * others or taken, f"{lane} starves"

    @rule(which=pick, status=st.sampled_from([AgentStatus.PAUSED, AgentStatus.ACTIVE]))
    def agent_comes_or_leaves(self, which: int, status: AgentStatus) -> None:
        """Leaves the choice by capability, that is; what names it waits as ever."""
        able = [agent.id for agent in self.agents.values() if agent.capabilities]
        self._set_status(able[which % len(able)], status)

    @precondition(lambda self: self.todo["parked"])
    @rule(which=pick)
    def unpark(self, which: int) -> None:
        self.stage.unpark(self.one_of("parked", which))

    @precondition(lambda self: self.todo["later"])
    @rule(which=pick)
    def time_comes(self, which: int) -> None:
        self.stage.time_comes(self.one_of("later", which))

    # --- delivery -------------------------------------------------------------------------------------

    @precondition(lambda self: self.todo["active"] or self.todo["handed"])
    @rule(which=pick)
    def post(self, which: int) -> None:
        postable = [(shard, *place) for shard in range(SHARDS) for place in self.stage.postable(shard)]
        if postable:
            self.stage.post(*postable[which % len(postable)])

    @precondition(lambda self: any(courier.in_flight for courier in self.stage.couriers))
    @rule(which=pick, verdict=verdicts, crash=crashes, calls_before=st.integers(0, 1))
    def answer(self, which: int, verdict: Verdict, crash: Crash, calls_before: int) -> None:
        in_flight = [
            (shard, place)
            for shard, courier in enumerate(self.stage.couriers)
            for place in sorted(courier.in_flight)
        ]
        self.stage.answer(*in_flight[which % len(in_flight)], verdict, self.agents, crash, calls_before)

    @precondition(lambda self: self.todo["handed"])
    @rule(which=pick, crash=crashes)
    def tell(self, which: int, crash: Crash) -> None:
        """Tell the record of what was handed over directly and takes its time, posted or not."""
        shard = self.one_of("handed", which)
        courier = self.stage.couriers[shard]
        untold = [place for place in sorted({*courier.hand, *courier.in_flight}) if place in courier.direct]
        self.stage.tell(shard, untold[which % len(untold)], crash)

    @precondition(lambda self: any(courier.hand for courier in self.stage.couriers))
    @rule(which=pick, crash=crashes)
    def give_back(self, which: int, crash: Crash) -> None:
        unposted = [
            (shard, place)
            for shard, courier in enumerate(self.stage.couriers)
            for place in sorted(courier.hand)
            if place in courier.direct
        ]
        if unposted:
            self.stage.give_back(*unposted[which % len(unposted)], crash)

    @precondition(lambda self: self.todo["due"])
    @rule(which=pick)
    def take_due(self, which: int) -> None:
        self.stage.take_due(self.one_of("due", which))

    @precondition(lambda self: self.todo["expiry"])
    @rule(which=pick)
    def expire(self, which: int) -> None:
        self.stage.expire(self.one_of("expiry", which))

    @precondition(lambda self: self.todo["active"])
    @rule(which=pick)
    def vacate(self, which: int) -> None:
        self.stage.vacate(self.one_of("active", which))

    @precondition(lambda self: self.places.boxes - self.pushed(self.places.boxes))
    @rule(
        which=pick,
        status=st.sampled_from([Status.DELIVERED, Status.PROCESSED, Status.FAILED]),
        twice=st.booleans(),
    )
    def acknowledge(self, which: int, status: Status, twice: bool) -> None:
        pulled = self.pulled()
        agent_id, one = pulled[which % len(pulled)]
        one = structs.replace(one, status=status)
        assert self.stage.acknowledge(agent_id, one)
        if twice:
            assert not self.stage.acknowledge(agent_id, one)

    # --- owners ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.todo["ledger"])
    @rule(which=pick, count=st.integers(1, 5), crash=crashes)
    def record(self, which: int, count: int, crash: Crash) -> None:
        before = {row.id: (row.round, row.status) for row in self.stage.tables.messages.values()}
        self.stage.record(self.one_of("ledger", which), count, crash)
        for row in self.stage.tables.messages.values():
            of_round, status = before.get(row.id, (row.round, Status.PENDING))
            if is_terminal(status):
                assert (row.round, row.status) == (of_round, status), "left its end"

    @rule(trade=st.sampled_from(TRADES), shard=shards, crash=crashes, calls_before=st.integers(0, 2))
    def take_over(self, trade: str, shard: int, crash: Crash, calls_before: int) -> None:
        """Another takes the trade, and the former owner wakes up and does what it was about to do."""
        stage = self.stage
        former, life = stage.tokens[trade, shard][-1], stage.couriers[shard].shelver.life
        stage.take_over(trade, shard, crash, calls_before)
        before = stage.everything()
        for script, keys, arguments in stale_calls(stage.raw, stage.keys[shard], trade, former, life):
            note(f"fenced: {script.name}")
            with pytest.raises(Fenced):
                stage.run(stage.evaluate(script, keys, arguments))
        assert stage.everything() == before, "a fenced owner changed something"

    # --- invariants -----------------------------------------------------------------------------------

    @invariant()
    def everything_is_in_one_place_and_in_order(self) -> None:
        self.sound = False
        self.told.hear(self.stage.raw, self.stage.keys)
        self.places = places = look(self.stage.raw, self.stage.keys)
        self.todo = self.stage.todo()
        for name, envelope in self.published.items():
            self._is_in_one_place(name, places)
            self._has_its_attempts(name, envelope)
        self._is_known_to_owners(places)
        self.sound = True

    def _is_in_one_place(self, name: Name, places: Places) -> None:
        ends = self.told.ends[name]
        assert len(ends) <= 1, f"{name} ended {len(ends)} times"
        lies = places.of(name)
        assert lies + len(ends) <= 1, f"{name} lies in {lies} places and has ended {len(ends)} times"
        if not lies and not ends and name not in self.cancelled:
            assert places.fresh[name], f"{name} is nowhere"
        assert len(self.told.recipients[name]) <= 1, f"{name} went to two agents"

    def _has_its_attempts(self, name: Name, envelope: Envelope) -> None:
        numbers = self.told.attempts[name]
        assert numbers == list(range(1, len(numbers) + 1)), f"{name} was attempted {numbers}"
        allowed = attempts_max(Agent(id="", name="").retry_schedule, options_of(envelope))
        assert len(numbers) <= allowed, f"{name} got {len(numbers)} attempts of {allowed}"

    def _is_known_to_owners(self, places: Places) -> None:
        active, expiring = self.stage.marked()
        assert self.pushed(places.boxes) <= active, "nobody would ever look there"
        assert places.expiring <= expiring, "would never expire"
        in_hand = set[str]().union(*(courier.direct for courier in self.stage.couriers))
        assert places.fields <= in_hand, "handed over to nobody"

    # --- the end --------------------------------------------------------------------------------------

    def work_off(self) -> None:
        """Let everybody do what is left, without a fault; nothing may be."""
        stage = self.stage
        for agent_id in self.agents:
            self._set_status(agent_id, AgentStatus.ACTIVE)
        for _ in range(6):
            for shard in range(SHARDS):
                stage.time_comes(shard)
                stage.unpark(shard)
                while stage.route(shard, 8, Crash.NONE):
                    pass
                if not shard:  # of the other, what was handed over directly goes to the next owner
                    self._post_all(shard)
                stage.take_over("deliver", shard)
                stage.take_due(shard)
                self._post_all(shard)
                stage.expire(shard)
                stage.vacate(shard)
            for agent_id, one in self.pulled():
                stage.acknowledge(agent_id, one)
        self.everything_is_in_one_place_and_in_order()
        for shard in range(SHARDS):
            stage.record(shard, 1_000, Crash.NONE)
        for name in self.published:
            assert self.told.ends[name] or name in self.cancelled, f"{name} is stuck"
        assert not look(stage.raw, stage.keys).of_any, "left behind"
        # Of an ingress, and of the mailbox of a puller whose messages expired, the empty stream stays; what
        # was withdrawn goes by itself, in its time.
        kept = (
            "owner",
            "fence",
            "direct_to",
            "seen",
            "doorbell",
            "ledger",
            "ingress",
            "inbox",
            "withdrawals",
        )
        left = {key for key in stage.raw.keys("ab:{*") if key.decode().split(":")[2] not in kept}
        assert not left, left

    def _post_all(self, shard: int) -> None:
        stage = self.stage
        for mailbox, entry in stage.postable(shard):
            stage.post(shard, mailbox, entry)
        for place in sorted(stage.couriers[shard].in_flight):
            stage.answer(shard, place, Verdict.DELIVERED, self.agents, Crash.NONE)

    # --- inside ---------------------------------------------------------------------------------------

    def one_of(self, what: str, which: int) -> int:
        """Return one of the shards that have something of this kind."""
        return self.todo[what][which % len(self.todo[what])]

    def rows(self, *statuses: Status) -> list[MessageRow]:
        """Return the rows with one of these statuses. A later round may be published and not on record."""
        return [row for _, row in sorted(self.stage.tables.messages.items()) if row.status in statuses]

    def pushed(self, mailboxes: set[str]) -> set[str]:
        """Return those of the mailboxes whose agent has an endpoint."""
        return {one for one in mailboxes if self.agents[mailbox_owner(one)[0]].endpoint is not None}

    def pulled(self) -> list[tuple[str, Acknowledged]]:
        """Return what agents without an endpoint can read."""
        found = []
        for agent_id, agent in sorted(self.agents.items()):
            if agent.endpoint is None:
                start = dict.fromkeys(LANES, "0-0")
                for entry in self.stage.run(self.stage.mailboxes.read(agent_id, start, count=100)):
                    found.append(
                        (agent_id, Acknowledged(entry.lane, entry.entry, entry.message[7:43].decode()))
                    )
        return found

    def _set_status(self, agent_id: str, status: AgentStatus) -> None:
        agent = self.agents[agent_id] = structs.replace(self.agents[agent_id], status=status)
        self.stage.directory.put(agent)


def _letter(row: MessageRow, envelope: Envelope) -> DeadLetter:
    given: dict[str, Any] = {name: getattr(envelope, name) for name in (
        "id", "from_agent_id", "conversation_id", "message_type", "priority", "content", "metadata",
        "created_at", "reply_to", "root_id", "hop", "expires_at",
    )}  # fmt: skip
    return DeadLetter(
        **given,
        to_agent_id=row.to,
        status=row.status.value,
        retry_count=row.retry_count,
        delivered_at=None,
        processed_at=None,
        result=None,
        status_reason=row.reason,
        round=row.round,
    )


def play(url: str, **how: Any) -> None:
    """Run the machine on a Redis. Raises: AssertionError, with what led to it."""
    run_state_machine_as_test(
        type("BrokerHere", (Broker,), {"url": url}),
        settings=settings(
            stateful_step_count=STEPS,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **how,
        ),
    )


@one_server
@pytest.mark.slow
@pytest.mark.timeout(0 if "MODEL_EXAMPLES" in os.environ else 600)
def test_whatever_happens_every_message_is_in_one_place_and_ends_once(streams_url: str) -> None:
    play(streams_url, max_examples=EXAMPLES, derandomize="MODEL_EXAMPLES" not in os.environ)


@one_server
@pytest.mark.parametrize("crash", list(Crash))
def test_what_is_chosen_for_another_shard_goes_there_once_whenever_the_router_dies(
    streams_url: str, crash: Crash
) -> None:
    """Rare among the examples: nobody able is in the shard of several messages, which go on in one entry, and
    the call its router dies on is the one that writes down the choices."""
    broker: Broker = type("BrokerHere", (Broker,), {"url": streams_url})()
    broker.begin()
    for _ in range(3):
        broker.publish(to=None, lane=Lane.NORMAL, retries=None, expires=False, scheduled=False)
    broker.everything_is_in_one_place_and_in_order()
    shard = next(s for s in range(SHARDS) if sum(shard_number(id_of(n)) == s for n in range(3)) > 1)
    able = [one.id for one in broker.agents.values() if one.capabilities]
    for number, agent in enumerate(able):
        if shard_number(agent) == shard:
            broker.agent_comes_or_leaves(number, AgentStatus.PAUSED)
    router = broker.stage.routers[shard]
    broker.route(broker.todo["ingress"].index(shard), 8, crash, 0.0, Hands.APART, False)
    assert (broker.stage.routers[shard] is router) == (crash is Crash.NONE)
    if crash is not Crash.NONE:
        assert bool(broker.stage.routers[shard]._chosen) == (crash is Crash.AFTER)
    broker.everything_is_in_one_place_and_in_order()
    broker.teardown()
