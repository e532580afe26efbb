"""Times of the workers, shrunk."""

import pytest

from workers.delivery import mailroom


@pytest.fixture(autouse=True)
def empty_mailboxes_go_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailroom, "VACATE_AFTER_MS", 500)
