"""The outside ledger itself: what it must not let pass. No broker here."""

import time
from collections.abc import Callable

import pytest
from outside_ledger import Account, OutsideLedger
from receivers import Received

ID = "01a20000-0000-7000-8000-000000000001"
Rows = tuple[dict[str, list[str]], dict[str, list[tuple[int, str]]]]


def receipt(nth: int = 1, *, verified: bool = True) -> Received:
    return Received(ID, nth, 1, "agent", verified, {}, b"", time.monotonic(), time.time())


def sent(*receipts: Received) -> OutsideLedger:
    """A ledger with one message, acknowledged."""
    ledger = OutsideLedger()
    ledger.attempted.add(ID)
    ledger.acknowledge([ID])
    for one in receipts:
        ledger.note(one)
    return ledger


def broken_between() -> OutsideLedger:
    """A message that came again because something was killed."""
    ledger = sent(receipt(1))
    with ledger.broken():
        pass
    ledger.note(receipt(2))
    return ledger


def never_sent() -> OutsideLedger:
    ledger = OutsideLedger()
    ledger.note(receipt())
    return ledger


GOOD: Rows = ({ID: ["delivered"]}, {ID: [(1, "success")]})


@pytest.mark.parametrize(
    ("make", "rows", "faults"),
    [
        (lambda: sent(receipt()), GOOD, set()),
        (broken_between, GOOD, set()),
        (
            lambda: sent(receipt(1), receipt(2)),
            ({ID: ["delivered"]}, {ID: [(1, "failed"), (2, "success")]}),
            set(),
        ),
        (lambda: sent(), ({ID: ["expired"]}, {}), set()),
        (lambda: sent(), ({}, {}), {"lost"}),
        (lambda: sent(), GOOD, {"lost"}),
        (lambda: sent(receipt()), ({}, {}), {"lost", "unrecorded"}),
        (lambda: sent(receipt()), ({ID: ["pending"]}, {ID: [(1, "success")]}), {"stuck"}),
        (lambda: sent(receipt()), ({ID: ["delivered", "failed"]}, {ID: [(1, "success")]}), {"several_ends"}),
        (lambda: sent(receipt()), ({ID: ["delivered"]}, {}), {"unrecorded"}),
        (lambda: sent(receipt()), ({ID: ["delivered"]}, {ID: [(2, "success")]}), {"misnumbered"}),
        (
            lambda: sent(receipt()),
            ({ID: ["delivered"]}, {ID: [(1, "success"), (1, "success")]}),
            {"misnumbered", "unrecorded"},
        ),
        (lambda: sent(receipt(1), receipt(2)), GOOD, {"unexplained", "unrecorded"}),
        (lambda: sent(receipt(verified=False)), GOOD, {"forged"}),
        (never_sent, GOOD, {"unexpected"}),
    ],
)
def test_the_ledger_tells_what_does_not_add_up(
    make: Callable[[], OutsideLedger], rows: Rows, faults: set[str]
) -> None:
    account: Account = make().compared(*rows)
    assert account.faults().keys() == faults
