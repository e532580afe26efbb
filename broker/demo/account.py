"""The account at the end: every task asked, against what the broker recorded and what the bot was answered.

Pure. A task is lost when the broker does not show it as processed, or when no answer reached the bot. An
answer that came twice is at-least-once delivery at work, counted and not a loss.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct, field


class Record(Struct, frozen=True, kw_only=True):
    """What the broker says about one task."""

    id: str
    agent: str | None
    status: str
    attempts: tuple[str, ...] = ()
    """Status of every attempt, in order: success, failed, timeout."""
    delivered_ms: int | None = None
    """From created to delivered."""


class Line(Struct, kw_only=True):
    """One agent's share."""

    tasks: int = 0
    attempts: int = 0
    failed: int = 0
    timeouts: int = 0
    delivered_ms: list[int] = field(default_factory=list)


class Account(Struct, kw_only=True):
    """Everybody's lines and what is missing. `refused`: tasks the broker did not take; they are not asked."""

    lines: dict[str, Line]
    asked: int
    processed: int
    answered: int
    repeated_answers: int
    lost: list[str]
    refused: int = 0

    @property
    def complete(self) -> bool:
        return not self.lost and not self.refused


def settle(
    asked: Iterable[str], records: Mapping[str, Record], answers: Counter[str], *, refused: int = 0
) -> Account:
    """Compare the ids that were asked with the broker's records and with the answers by task id."""
    ids = list(asked)
    lines: dict[str, Line] = {}
    lost = []
    for task_id in ids:
        record = records.get(task_id)
        if record is None or record.status != "processed" or not answers[task_id]:
            lost.append(task_id)
        if record is not None:
            _enter(lines.setdefault(record.agent or "nobody", Line()), record)
    return Account(
        lines=lines,
        asked=len(ids),
        processed=sum(record.status == "processed" for record in records.values()),
        answered=sum(bool(answers[task_id]) for task_id in ids),
        repeated_answers=sum(count - 1 for count in answers.values() if count > 1),
        lost=lost,
        refused=refused,
    )


def share_ms(values: list[int], share: float) -> int | None:
    """Return the value below which that share of the values lies (nearest rank); None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _enter(line: Line, record: Record) -> None:
    line.tasks += 1
    line.attempts += len(record.attempts)
    line.failed += record.attempts.count("failed")
    line.timeouts += record.attempts.count("timeout")
    if record.delivered_ms is not None:
        line.delivered_ms.append(record.delivered_ms)
