"""The pure core as one small broker: lanes, retries, breaker, life cycle, fold and replay, in any order.

One endpoint, time that only moves when a rule says so, and a ledger that is read again and again from further
back. After every step: attempts are within their limit and numbered, no retry is planned at or after an
expiry, nothing goes out while the breaker is open and one probe at most while it is half open, no lane
starves, each message ends once, and on record a message never leaves its end.
"""

from collections import deque
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ledger_events import AGENTS
from ledger_events import Model as Tables
from msgspec import Raw

from broker.core.breaker import Breaker, BreakerState
from broker.core.fold import fold
from broker.core.lanes import WEIGHTS, LaneWeights
from broker.core.lifecycle import Party, is_terminal, may_set
from broker.core.retry import attempts_max, classify, next_attempt
from schema.agent import RetrySchedule
from schema.codec import encode, options_of
from schema.delivery import Attempt, AttemptStatus
from schema.ledger import Event, EventKind
from schema.message import LANES, Envelope, Lane, Reason, Status
from schema.times import from_ms, to_ms

BEGAN_MS = 1_800_000_000_000
SCHEDULE = RetrySchedule.AGENT

pick = st.integers(0, 9)


class Job:
    """One message in one round, as the broker sees it."""

    def __init__(self, envelope: Envelope, lane: Lane) -> None:
        self.envelope, self.lane = envelope, lane
        self.attempts = 0
        self.due_ms = 0
        self.ends = 0

    @property
    def expires_ms(self) -> int | None:
        return None if self.envelope.expires_at is None else to_ms(self.envelope.expires_at)


class Core(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_ms = BEGAN_MS
        self.jobs: list[Job] = []
        self.lanes: dict[Lane, deque[Job]] = {lane: deque() for lane in LANES}
        self.weights = LaneWeights()
        self.passed_over = dict.fromkeys(LANES, 0)
        self.waiting: list[Job] = []
        self.in_flight: list[Job] = []
        self.breaker = Breaker()
        self.ledger: list[Event] = []
        self.read = 0
        self.tables = Tables()

    # --- on the conveyor ------------------------------------------------------------------------------

    @rule(
        lane=st.sampled_from(LANES),
        retries=st.sampled_from([None, 0, 1, 2]),
        lasts_s=st.sampled_from([None, 2, 60]),
    )
    def publish(self, lane: Lane, retries: int | None, lasts_s: int | None) -> None:
        now = from_ms(self.now_ms)
        envelope = Envelope(
            id=f"0193a1b2-c3d4-7000-8000-{len(self.jobs):012x}",
            to_agent_id=AGENTS[0],
            metadata=Raw(encode({} if retries is None else {"max_retries": retries})),
            created_at=now,
            expires_at=None if lasts_s is None else now + timedelta(seconds=lasts_s),
        )
        self.jobs.append(Job(envelope, lane))
        self.lanes[lane].append(self.jobs[-1])

    @precondition(lambda self: any(self.lanes.values()))
    @rule(room=st.integers(1, 12))
    def route(self, room: int) -> None:
        waited = [lane for lane in LANES if self.lanes[lane]]
        taken = self.weights.take(self.lanes, room)
        for lane in LANES:
            others = sum(other is not lane for other, _ in taken)
            had_its_turn = len(taken) > others
            self.passed_over[lane] = (
                0 if had_its_turn or lane not in waited else self.passed_over[lane] + others
            )
            assert self.passed_over[lane] <= 2 * (sum(WEIGHTS.values()) - WEIGHTS[lane]), f"{lane} starves"
        self.waiting += [job for _, job in taken]

    @precondition(lambda self: self.waiting)
    @rule(which=pick)
    def post(self, which: int) -> None:
        job = self.waiting[which % len(self.waiting)]
        if job.due_ms > self.now_ms or not self.breaker.may_send(self.now_ms):
            return
        assert self.breaker.state is BreakerState.CLOSED or self.now_ms >= self.breaker.retry_at_ms
        self.waiting.remove(job)
        if job.expires_ms is not None and job.expires_ms <= self.now_ms:
            self._end(job, Status.EXPIRED, Reason.EXPIRED)
            return
        self.breaker.sent(self.now_ms, within_ms=15_000)
        self.in_flight.append(job)
        if self.breaker.state is not BreakerState.CLOSED:
            assert not self.breaker.may_send(self.now_ms), "one probe at a time"

    @precondition(lambda self: self.in_flight)
    @rule(
        which=pick,
        status=st.sampled_from([200, 500, 500, 503, 503, 404, 410]),
        chance=st.sampled_from([0.0, 0.5, 0.99]),
    )
    def answer(self, which: int, status: int, chance: float) -> None:
        job = self.in_flight.pop(which % len(self.in_flight))
        job.attempts += 1
        if status == 200:
            self.breaker.succeeded(self.now_ms)
        else:
            self.breaker.failed(self.now_ms)
        decision = next_attempt(
            attempt=job.attempts,
            verdict=classify(status),
            retry_after=None,
            schedule=SCHEDULE,
            options=options_of(job.envelope),
            expires_ms=job.expires_ms,
            now_ms=self.now_ms,
            chance=chance,
        )
        if decision.deliver_again_ms is None:
            ended = Status.DELIVERED if status == 200 else Status.FAILED
            self._end(
                job, Status.EXPIRED if decision.reason is Reason.EXPIRED else ended, decision.reason, status
            )
            return
        assert decision.deliver_again_ms > self.now_ms
        assert job.expires_ms is None or decision.deliver_again_ms < job.expires_ms
        job.due_ms = decision.deliver_again_ms
        self.waiting.append(job)
        self._tell(job, EventKind.ATTEMPTED, Status.PENDING, None, status)

    @rule(seconds=st.sampled_from([0.5, 3, 40, 700]))
    def time_passes(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)

    @rule()
    def a_crash_forgets_the_breaker_and_repeats_what_was_in_flight(self) -> None:
        self.breaker = Breaker()
        self.waiting += self.in_flight
        self.in_flight.clear()

    # --- on record ------------------------------------------------------------------------------------

    @precondition(lambda self: self.ledger)
    @rule(back=st.integers(0, 6), count=st.integers(1, 6))
    def record(self, back: int, count: int) -> None:
        """Read on from where the ledger was read to, or from further back: the cut was never done."""
        before = {row.id: (row.round, row.status) for row in self.tables.messages.values()}
        start, self.read = max(0, self.read - back), min(len(self.ledger), self.read + count)
        self.tables.write(fold(self.ledger[start : self.read]))
        for row in self.tables.messages.values():
            of_round, status = before.get(row.id, (0, Status.PENDING))
            assert row.round >= of_round
            if is_terminal(status):
                assert (row.round, row.status) == (of_round, status), "left its end"

    @precondition(lambda self: any(row.status is Status.PENDING for row in self.tables.messages.values()))
    @rule(which=pick)
    def cancel(self, which: int) -> None:
        rows = [row for row in self.tables.messages.values() if row.status is Status.PENDING]
        row = rows[which % len(rows)]
        assert may_set(Party.SENDER, row.status, Status.CANCELLED)
        row.status = Status.CANCELLED

    # --- invariants -----------------------------------------------------------------------------------

    @invariant()
    def attempts_are_within_their_limit_and_each_ends_once(self) -> None:
        for job in self.jobs:
            assert job.attempts <= attempts_max(SCHEDULE, options_of(job.envelope))
            assert job.ends <= 1
            places = (
                (job in self.lanes[job.lane]) + (job in self.waiting) + (job in self.in_flight) + job.ends
            )
            assert places == 1

    def teardown(self) -> None:
        self.tables.write(fold(self.ledger))
        for job in self.jobs:
            row = self.tables.messages.get(job.envelope.id)
            assert (row is not None) >= bool(job.ends), "ended, and not on record"
            if row is not None and row.status is not Status.CANCELLED:
                assert (row.status is not Status.PENDING) == bool(job.ends)
        numbers: dict[str, list[int]] = {}
        for message_id, _, number, _ in self.tables.attempts:
            numbers.setdefault(message_id, []).append(number)
        for job in self.jobs:
            assert sorted(numbers.get(job.envelope.id, [])) == list(range(1, job.attempts + 1))

    # --- inside ---------------------------------------------------------------------------------------

    def _end(self, job: Job, status: Status, reason: Reason | None, answered: int | None = None) -> None:
        job.ends += 1
        self._tell(job, EventKind.SETTLED, status, reason, answered)

    def _tell(
        self, job: Job, kind: EventKind, status: Status, reason: Reason | None, answered: int | None
    ) -> None:
        attempt = None
        if answered is not None:
            said = AttemptStatus.SUCCESS if answered == 200 else AttemptStatus.FAILED
            attempt = Attempt(
                number=job.attempts, status=said, attempted_ms=self.now_ms, response_code=answered
            )
        self.ledger.append(
            Event(
                kind=kind,
                id=job.envelope.id,
                at_ms=self.now_ms,
                message=Raw(encode(job.envelope)),
                to=job.envelope.to_agent_id,
                status=status,
                reason=None if reason is None else reason.value,
                attempt=attempt,
                next_attempt_ms=job.due_ms if kind is EventKind.ATTEMPTED else None,
            )
        )


def test_whatever_happens_the_core_keeps_its_bounds() -> None:
    run_state_machine_as_test(
        Core,
        settings=settings(
            max_examples=150,
            stateful_step_count=60,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
