"""Times of the workers, shrunk."""

import pytest

from workers.delivery import announcing, left_to_pull, mailroom


@pytest.fixture(autouse=True)
def empty_mailboxes_go_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailroom, "VACATE_AFTER_MS", 500)


@pytest.fixture(autouse=True)
def agents_that_pull_are_left_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_to_pull, "TOLD_MS", 500)


@pytest.fixture
def never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is told to the record before its end, however slow the machine is."""
    monkeypatch.setattr(announcing, "ANNOUNCE_MS", 3_600_000)
