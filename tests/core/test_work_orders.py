"""The life of a work order: the table, and what holds whatever is asked in whatever order."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from broker.core.work_order_notices import ends_offers, told
from broker.core.work_orders import (
    DOES,
    TRANSITIONS,
    Asked,
    Change,
    Lease,
    Order,
    Refusal,
    Refused,
    Standing,
    decide,
    has_room,
    is_free,
    is_terminal,
    may_see,
)
from schema.work_order import Action, OrderStatus, Party

P, A = OrderStatus.PENDING, OrderStatus.ACCEPTED
ENDS = [status for status in OrderStatus if is_terminal(status)]
NOW, LEASE_MS = 1_000_000, 1_000
ASKABLE = [
    *(Action.ACCEPT, Action.REJECT, Action.PROGRESS, Action.COMPLETE, Action.FAIL, Action.CANCEL),
    Action.EXPIRE,
]


def an_order(status: OrderStatus, *, is_open: bool = False, until_ms: int = NOW + 1, **more: Any) -> Order:
    taken = status is not P
    return Order(
        status=status,
        is_open=is_open,
        requester_id="boss",
        worker_id="w" if taken or not is_open else None,
        lease=Lease(1, "1.s", "w", until_ms) if taken else None,
        **more,
    )


def ask(order: Order, action: Action, agent: str | None = "w", **more: Any) -> Change | Refusal:
    standing = {"boss": Standing.REQUESTER, "w": Standing.WORKER, "o": Standing.OFFERED}.get(
        str(agent), Standing.STRANGER
    )
    if agent == "w" and order.worker_id is None:
        standing = Standing.OFFERED
    given = {"action": action, "standing": standing, "agent_id": agent, "secret": "x", "lease_ms": LEASE_MS}
    return decide(order, Asked(**(given | more)), NOW)


def becomes(outcome: Change | Refusal) -> OrderStatus | Refused:
    return outcome.after.status if isinstance(outcome, Change) else outcome.reason


LEGAL = {
    (P, Action.ACCEPT): A,
    (P, Action.REJECT): OrderStatus.REJECTED,
    (P, Action.CANCEL): OrderStatus.CANCELLED,
    (A, Action.PROGRESS): A,
    (A, Action.COMPLETE): OrderStatus.COMPLETED,
    (A, Action.FAIL): OrderStatus.FAILED,
    (A, Action.CANCEL): OrderStatus.CANCELLED,
}


@pytest.mark.parametrize("status", OrderStatus)
@pytest.mark.parametrize("action", ASKABLE)
@pytest.mark.parametrize("agent", ["boss", "w", "stranger"])
def test_who_may_do_what_to_a_directed_order(status: OrderStatus, action: Action, agent: str) -> None:
    allowed = {"boss": {Action.CANCEL}, "w": DOES[Party.WORKER], "stranger": set()}[agent]
    expected = LEGAL.get((status, action), Refused.ILLEGAL) if action in allowed else Refused.NOT_YOURS
    assert becomes(ask(an_order(status), action, agent)) == expected


def test_an_ended_order_allows_nothing_and_every_other_something() -> None:
    assert (
        {status for status in OrderStatus if not TRANSITIONS[status]}
        == set(ENDS)
        == set(OrderStatus) - {P, A}
    )


@pytest.mark.parametrize(
    ("order", "agent", "action", "outcome"),
    [
        (an_order(P, is_open=True), "o", Action.ACCEPT, A),
        (an_order(P, is_open=True), "o", Action.REJECT, P),
        (an_order(A, is_open=True), "o", Action.ACCEPT, Refused.ILLEGAL),
        (an_order(A, is_open=True), "o", Action.REJECT, Refused.ILLEGAL),
        (an_order(A, is_open=True, until_ms=NOW), "o", Action.ACCEPT, A),
        (an_order(A, is_open=True, until_ms=NOW), "o", Action.REJECT, A),
        (an_order(A, is_open=True, until_ms=NOW), "w", Action.ACCEPT, A),
        (an_order(A, is_open=True, until_ms=NOW), "o", Action.COMPLETE, Refused.LEASE_LOST),
        (an_order(A, until_ms=NOW), "w", Action.ACCEPT, A),
        (an_order(A, until_ms=NOW), "w", Action.REJECT, Refused.ILLEGAL),
        (an_order(A, until_ms=NOW), "w", Action.COMPLETE, OrderStatus.COMPLETED),
        (an_order(A, until_ms=NOW), "w", Action.PROGRESS, A),
        (an_order(P, deadline_ms=NOW), "w", Action.ACCEPT, Refused.ILLEGAL),
        (an_order(A, deadline_ms=NOW), "w", Action.COMPLETE, Refused.ILLEGAL),
        (an_order(A, deadline_ms=NOW), "boss", Action.CANCEL, OrderStatus.CANCELLED),
        (an_order(A, deadline_ms=NOW), None, Action.EXPIRE, OrderStatus.EXPIRED),
        (an_order(P, deadline_ms=NOW), None, Action.EXPIRE, OrderStatus.EXPIRED),
        (an_order(A, deadline_ms=NOW + 1), None, Action.EXPIRE, Refused.ILLEGAL),
        (an_order(A), None, Action.EXPIRE, Refused.ILLEGAL),
        (an_order(A), None, Action.CANCEL, OrderStatus.CANCELLED),
        (an_order(A), None, Action.COMPLETE, Refused.NOT_YOURS),
    ],
)
def test_open_orders_lapsed_leases_and_deadlines(
    order: Order, agent: str | None, action: Action, outcome: OrderStatus | Refused
) -> None:
    assert becomes(ask(order, action, agent)) == outcome


@pytest.mark.parametrize("action", [Action.PROGRESS, Action.COMPLETE, Action.FAIL])
@pytest.mark.parametrize(
    ("number", "token", "agent", "holds"),
    [
        (1, None, "w", True),
        (1, "1.s", "w", True),
        (1, "1.t", "w", False),
        (1, "", "w", False),
        (1, "1.s", "o", False),
        (1, None, "o", False),
        (2, None, "w", False),
        (2, "1.s", "w", False),
        (2, "2.s", "w", True),
    ],
)
def test_only_the_current_lease_in_its_holders_hands_counts(
    action: Action, number: int, token: str | None, agent: str, holds: bool
) -> None:
    order = replace(an_order(A, is_open=True), lease=Lease(number, f"{number}.s", "w", NOW + 1))
    outcome = ask(order, action, agent, token=token)
    assert isinstance(outcome, Change) == holds
    if isinstance(outcome, Refusal):
        assert outcome.reason is Refused.LEASE_LOST


def test_who_declined_has_no_second_word() -> None:
    for action in (Action.ACCEPT, Action.REJECT):
        outcome = ask(an_order(P, is_open=True), action, "o", standing=Standing.DECLINED)
        assert becomes(outcome) is Refused.ILLEGAL


@pytest.mark.parametrize(
    ("order", "standing", "sees"),
    [
        (an_order(P, is_open=True), Standing.OFFERED, True),
        (an_order(A, is_open=True), Standing.OFFERED, False),
        (an_order(A, is_open=True, until_ms=NOW), Standing.OFFERED, True),
        (an_order(P, is_open=True), Standing.DECLINED, False),
        (an_order(P), Standing.STRANGER, False),
        (an_order(OrderStatus.COMPLETED), Standing.REQUESTER, True),
        (an_order(OrderStatus.COMPLETED), Standing.WORKER, True),
    ],
)
def test_who_sees_an_order(order: Order, standing: Standing, sees: bool) -> None:
    assert may_see(order, standing, NOW) == sees


def test_room_ends_at_the_number_an_agent_named() -> None:
    assert [has_room(active, 2) for active in (0, 1, 2, 3)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("order", "agent", "action", "heard"),
    [
        (an_order(P), "w", Action.ACCEPT, {"boss": "w"}),
        (an_order(A), "w", Action.PROGRESS, {"boss": "w"}),
        (an_order(A), "boss", Action.CANCEL, {"w": "boss"}),
        (an_order(A, deadline_ms=1), None, Action.EXPIRE, {"boss": "w", "w": "boss"}),
        (
            an_order(P, is_open=True, deadline_ms=1),
            None,
            Action.EXPIRE,
            {"boss": None, "o": "boss", "q": "boss"},
        ),
        (an_order(P, is_open=True), "o", Action.ACCEPT, {"boss": "o", "q": "boss"}),
        (an_order(P, is_open=True), "o", Action.REJECT, {}),
        (an_order(A, is_open=True, until_ms=1), "o", Action.ACCEPT, {"boss": "o", "w": "boss", "q": "boss"}),
    ],
)
def test_who_hears_of_a_change_and_from_whom(
    order: Order, agent: str | None, action: Action, heard: dict[str, str | None]
) -> None:
    change = ask(order, action, agent)
    assert isinstance(change, Change)
    offered = {"o", "q"} if order.is_open else set()
    assert {one.to: one.sender for one in told(order, change, agent, offered)} == heard
    assert ends_offers(change) == (action is not Action.REJECT)


# --- whatever happens ----------------------------------------------------------------------------------

WORKERS = ("w", "o", "q")


class Life(RuleBasedStateMachine):
    """An open order, three workers, every token that was ever given, and a clock."""

    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0
        self.order = Order(status=P, is_open=True, requester_id="boss", deadline_ms=20_000)
        self.history: list[Order] = [self.order]
        self.given: list[tuple[str, str]] = []

    @rule(ms=st.sampled_from([0, 1, 400, LEASE_MS - 1, LEASE_MS, 3_000]))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(target=tokens, agent=st.sampled_from(WORKERS))
    def accept(self, agent: str) -> str:
        before = self.order
        changed = self._ask(Action.ACCEPT, agent)
        assert changed == is_free(before, self.now_ms)
        if not changed:
            return "0.none"
        lease = self.order.lease
        assert lease is not None
        assert before.lease is None or (
            lease.number == before.lease.number + 1 and before.lease.until_ms <= self.now_ms
        )
        assert lease.until_ms == self.now_ms + LEASE_MS
        assert lease.token not in [token for token, _ in self.given]
        self.given.append((lease.token, agent))
        return lease.token

    @rule(
        token=tokens,
        agent=st.sampled_from(WORKERS),
        action=st.sampled_from([Action.PROGRESS, Action.COMPLETE, Action.FAIL]),
    )
    def report(self, token: str, agent: str, action: Action) -> None:
        changed = self._ask(action, agent, token)
        if changed:
            assert self.given[-1] == (token, agent)  # the last one given, in the hands it was given to

    @rule(agent=st.sampled_from(WORKERS), action=st.sampled_from([Action.REJECT, Action.CANCEL]))
    def meddle(self, agent: str, action: Action) -> None:
        before = self.order
        self._ask(action, agent)
        assert self.order == before

    @precondition(lambda self: len(self.given) > 1)  # else most lives would be short
    @rule()
    def cancel(self) -> None:
        self._ask(Action.CANCEL, "boss")

    @rule()
    def expire(self) -> None:
        changed = self._ask(Action.EXPIRE, None)
        assert not changed or self.now_ms >= 20_000

    @invariant()
    def a_live_lease_is_the_only_one(self) -> None:
        if self.order.status is A:
            assert self.order.lease is not None
            assert self.order.lease.holder == self.order.worker_id
            assert self.order.lease.number == len(self.given)

    @invariant()
    def what_has_ended_stays_so(self) -> None:
        ended = [n for n, order in enumerate(self.history) if is_terminal(order.status)]
        assert ended in ([], [len(self.history) - 1])

    def _ask(self, action: Action, agent: str | None, token: str | None = None) -> bool:
        standing = Standing.REQUESTER if agent == "boss" else Standing.OFFERED
        if agent == self.order.worker_id:
            standing = Standing.WORKER
        secret = f"s{len(self.given)}"
        asked = Asked(
            action=action, standing=standing, agent_id=agent, token=token, secret=secret, lease_ms=LEASE_MS
        )
        outcome = decide(self.order, asked, self.now_ms)
        if isinstance(outcome, Refusal):
            return False
        if outcome.after != self.order:
            self.order = outcome.after
            self.history.append(outcome.after)
        return True


Life.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase
