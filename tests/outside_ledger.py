"""The ledger outside the system under test: what was tried, what was acknowledged, what was received.

After the drain it is held against Postgres. `account` says in ids what does not add up; all of it must be
empty. Two rules carry the tests of kills, and neither looks at a clock's distance:
- a message may reach its receiver twice only where something was broken between the two receipts;
- every receipt has its attempt row but those that another receipt had to follow for that reason.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import asyncpg
from msgspec import Struct, field
from receivers import Received

ENDED = frozenset(("delivered", "processed", "failed", "expired", "cancelled"))


class Account(Struct):
    """What does not add up, by message id."""

    lost: list[str] = field(default_factory=list)
    """Acknowledged, and neither on record nor (where the record says delivered) received."""
    unexpected: list[str] = field(default_factory=list)
    """Received or on record, and never sent."""
    stuck: list[str] = field(default_factory=list)
    """Acknowledged, and not ended."""
    several_ends: list[str] = field(default_factory=list)
    """More than one row."""
    forged: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    """Received again with nothing broken in between and no failed attempt to follow."""
    misnumbered: list[str] = field(default_factory=list)
    """Attempts on record that do not run 1, 2, 3 ..."""
    unrecorded: list[str] = field(default_factory=list)
    """Receipts without an attempt row, beyond those cut off."""

    def faults(self) -> dict[str, list[str]]:
        return {name: ids for name in self.__struct_fields__ if (ids := getattr(self, name))}


class OutsideLedger:
    """Publishers and receivers append; `account` compares."""

    def __init__(self) -> None:
        self.attempted: set[str] = set()
        self.acknowledged: set[str] = set()
        self.received: dict[str, list[Received]] = defaultdict(list)
        self._broken: list[tuple[float, float]] = []

    def note(self, request: Received) -> None:
        self.received[request.id].append(request)

    def acknowledge(self, ids: Iterable[str]) -> None:
        self.acknowledged.update(ids)

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Note that something is killed in here, and is well again at the end."""
        since_s = time.monotonic()
        try:
            yield
        finally:
            self._broken.append((since_s, time.monotonic()))

    def compared(self, statuses: dict[str, list[str]], attempts: dict[str, list[tuple[int, str]]]) -> Account:
        """Compare with what is on record: statuses, and (attempt, status) of attempts, by message."""
        account = Account()
        account.unexpected = sorted((self.received.keys() | statuses.keys()) - self.attempted)
        for message_id in sorted(self.acknowledged):
            self._compare_end(account, message_id, statuses.get(message_id, []))
        for message_id, receipts in self.received.items():
            if not all(receipt.verified for receipt in receipts):
                account.forged.append(message_id)
            self._compare_attempts(account, message_id, attempts.get(message_id, []))
        return account

    def cut_off(self, message_id: str) -> int:
        """Return how many receipts of a message had something break between them and the next one."""
        return sum(self._broke_between(*pair) for pair in pairwise(self.received[message_id]))

    @property
    def repeated(self) -> set[str]:
        """Messages that were received more than once."""
        return {message_id for message_id, receipts in self.received.items() if len(receipts) > 1}

    async def account(self, database_url: str) -> Account:
        """Compare with Postgres."""
        connection = await asyncpg.connect(database_url)
        try:
            ids = list(self.attempted | self.received.keys())
            rows = await connection.fetch("SELECT id, status FROM agent_messages WHERE id = ANY($1)", ids)
            tries = await connection.fetch(
                "SELECT message_id, attempt, status FROM message_delivery_log WHERE message_id = ANY($1)"
                " ORDER BY message_id, round, attempt",
                ids,
            )
        finally:
            await connection.close()
        statuses, attempts = defaultdict(list), defaultdict(list)
        for row in rows:
            statuses[str(row["id"])].append(row["status"])
        for row in tries:
            attempts[str(row["message_id"])].append((row["attempt"], row["status"]))
        return self.compared(statuses, attempts)

    def _compare_end(self, account: Account, message_id: str, found: list[str]) -> None:
        if not found or (found == ["delivered"] and message_id not in self.received):
            account.lost.append(message_id)
        if len(found) > 1:
            account.several_ends.append(message_id)
        if not ENDED.issuperset(found):
            account.stuck.append(message_id)

    def _compare_attempts(self, account: Account, message_id: str, rows: list[tuple[int, str]]) -> None:
        receipts, cut_off = len(self.received[message_id]), self.cut_off(message_id)
        failed = sum(status != "success" for _, status in rows)
        if receipts - 1 > cut_off + failed:
            account.unexplained.append(message_id)
        if [number for number, _ in rows] != list(range(1, len(rows) + 1)):
            account.misnumbered.append(message_id)
        if not receipts - cut_off <= len(rows) <= receipts:
            account.unrecorded.append(message_id)

    def _broke_between(self, one: Received, other: Received) -> bool:
        return any(since < other.at_s and one.at_s < until for since, until in self._broken)
