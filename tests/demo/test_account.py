"""The account finds what is missing, and nothing else."""

from collections import Counter

import pytest

from broker.demo.account import Record, settle, share_ms
from broker.demo.tables import verdict


def record(task_id: str, *attempts: str, status: str = "processed") -> Record:
    return Record(id=task_id, agent="a", status=status, attempts=attempts, delivered_ms=5)


def test_everything_processed_and_answered_is_complete() -> None:
    records = {"1": record("1", "success"), "2": record("2", "failed", "timeout", "success")}
    account = settle(["1", "2"], records, Counter(["1", "2"]))
    assert account.complete
    assert (account.asked, account.processed, account.answered, account.repeated_answers) == (2, 2, 2, 0)
    line = account.lines["a"]
    assert (line.tasks, line.attempts, line.failed, line.timeouts) == (2, 4, 1, 1)


@pytest.mark.parametrize(
    ("records", "answers"),
    [
        ({}, ["1"]),
        ({"1": record("1", "success", status="delivered")}, ["1"]),
        ({"1": record("1", "failed", status="failed")}, []),
        ({"1": record("1", "success")}, []),
    ],
    ids=["not recorded", "not processed", "failed", "not answered"],
)
def test_task_without_record_result_or_answer_is_lost(records: dict[str, Record], answers: list[str]) -> None:
    account = settle(["1"], records, Counter(answers))
    assert account.lost == ["1"]
    assert not account.complete


def test_answer_that_came_twice_is_counted_and_no_loss() -> None:
    account = settle(["1"], {"1": record("1", "success")}, Counter(["1", "1", "1"]))
    assert account.complete
    assert account.repeated_answers == 2


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([3], 1.0, 3), ([4, 1, 3, 2], 0.5, 3), ([1, 2], 0.95, 2)],
)
def test_share_is_a_value_that_was_there(values: list[int], share: float, expected: int | None) -> None:
    assert share_ms(values, share) == expected


def test_what_was_refused_is_no_loss_and_no_success() -> None:
    account = settle([], {}, Counter(), refused=3)
    assert not account.complete
    assert "3 REFUSED" in verdict(account)
    assert "LOST" not in verdict(account)
