"""The account: what it must not let pass, and what has an explanation. No broker here."""

import pytest
from chaos.account import Attempt, Receipt, Row, Sent, World, compare, read_received, read_sent
from chaos.journal import Spell

ID = "01a20000-0000-7000-8000-000000000001"
OTHER = "01a20000-0000-7000-8000-000000000002"
AGENT = "01a20000-0000-7000-8000-00000000000a"
KILL = Spell("kill of a worker", "worker-1", 10.0, 10.0, interrupts=True)
ON_THE_WAY = Spell("connection reset", "workers>receivers", 10.0, 10.0, interrupts=False)


def receipt(at: float = 10.0, *, attempt: int = 1, status: int = 200, agent: str = "a") -> Receipt:
    return Receipt(ID, attempt, agent, at, at + 0.01, status)


def world(
    *receipts: Receipt,
    attempts: tuple[Attempt, ...] = (Attempt(1, "success"),),
    status: str = "delivered",
    reason: str | None = None,
    to: str | None = AGENT,
    expires: bool = False,
    acknowledged: bool = True,
    rows: int = 1,
) -> World:
    found = World(names={AGENT: "a"})
    found.sent[ID] = Sent(ID, to, expires, None, acknowledged)
    found.receipts[ID].extend(receipts)
    found.attempts[ID].extend(attempts)
    found.rows[ID].extend([Row(ID, status, reason, AGENT, "message", None)] * rows)
    if not receipts:
        del found.receipts[ID]
    return found


FAILED_THEN_DONE = (Attempt(1, "failed"), Attempt(2, "success"))


@pytest.mark.parametrize(
    ("found", "spells", "faults"),
    [
        (world(receipt()), [], set()),
        (world(receipt(), receipt(20)), [KILL], set()),
        (world(receipt(), receipt(20)), [ON_THE_WAY], set()),
        (world(receipt(), receipt(20)), [], {"unexplained"}),
        (world(receipt(13), receipt(20)), [KILL], {"unexplained"}),
        (world(receipt(status=500), receipt(20, attempt=2), attempts=FAILED_THEN_DONE), [], set()),
        (world(), [], {"lost"}),
        (world(rows=0, attempts=()), [], {"lost"}),
        (world(acknowledged=False, rows=0, attempts=()), [], set()),
        (world(receipt(), acknowledged=False, rows=0), [], {"missing_rows"}),
        (world(receipt(), status="pending"), [], {"stuck"}),
        (world(receipt(), rows=2), [], {"several_ends"}),
        (world(status="expired", attempts=()), [], {"wrong_ends"}),
        (world(status="expired", attempts=(), expires=True), [], set()),
        (world(receipt(), status="expired", attempts=(), expires=True), [KILL], set()),
        (world(receipt(), status="expired", attempts=(), expires=True), [], {"missing_rows"}),
        (world(receipt(), status="failed", reason="exhausted"), [], {"wrong_ends"}),
        (world(status="failed", reason="unknown_recipient", attempts=()), [], {"wrong_ends"}),
        (world(receipt(agent="b")), [], {"wrong_recipients"}),
        (world(receipt(), receipt(20, agent="b"), to=None), [KILL], {"wrong_recipients"}),
        (world(receipt(), attempts=()), [], {"missing_rows"}),
        (world(receipt(), attempts=(Attempt(1, "success"),) * 2), [], {"double_rows"}),
        (world(receipt(), attempts=(Attempt(2, "success"),)), [], {"double_rows", "missing_rows"}),
        (world(Receipt(ID, 1, "a", 1.0, 1.1, 200, verified=False)), [], {"forged"}),
    ],
)
def test_the_account_tells_what_does_not_add_up(found: World, spells: list[Spell], faults: set[str]) -> None:
    assert compare(found, spells).faults().keys() == faults


def test_what_was_never_sent_is_unexpected_unless_it_is_the_broker_s_own_answer() -> None:
    found = world(receipt())
    found.rows[OTHER] = [Row(OTHER, "processed", None, AGENT, "error", ID)]
    assert compare(found, []).faults() == {}
    found.rows[OTHER] = [Row(OTHER, "processed", None, AGENT, "message", ID)]
    assert compare(found, []).faults() == {"unexpected": [OTHER]}


def test_the_bound_is_what_was_in_flight_while_something_was_cut_off() -> None:
    found = world(receipt(), receipt(20), receipt(30, attempt=2), attempts=FAILED_THEN_DONE)
    figures = compare(found, [KILL]).figures
    assert figures["duplicates"] == 1
    assert figures["in flight while something was cut off (the bound)"] == 1


def test_ledgers_are_read_as_they_were_written() -> None:
    sent = read_sent(
        [
            {"what": "attempt", "id": ID, "to": None, "expires_at": None, "sender": None},
            {"what": "unknown", "id": ID},
            {"what": "ack", "id": ID},
        ]
    )
    assert (sent[ID].acknowledged, sent[ID].unknown) == (True, 1)
    found = World()
    request = {"id": ID, "serial": 1, "attempt": 1, "agent": "a", "verified": True}
    read_received(
        found,
        [
            {"what": "received", "at": 1.0, **request},
            {"what": "answered", "at": 2.0, "id": ID, "serial": 1, "status": 200},
            {"what": "received", "at": 3.0, **request, "serial": 2},
        ],
    )
    first, second = found.receipts[ID]
    assert (first.answered, first.status, second.answered) == (2.0, 200, float("inf"))
