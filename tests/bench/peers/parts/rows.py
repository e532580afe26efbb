"""Rows of messages and attempts, written in batches: `add` returns when they are committed.

While one batch commits, the next gathers; after it a short linger, so that a slow trickle of answers does not
make a transaction each. What waits here is not acknowledged yet, so a crash loses nothing.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import asyncpg
import orjson

RECORD = (Path(__file__).parent / "record.sql").read_text()
ROWS_MAX = 1_000

MessageRow = tuple[str, str, str, int, str, str, str, int, datetime, datetime | None]
AttemptRow = tuple[str, int, str, int | None, int, datetime]


class Rows:
    def __init__(self, connection: Any, *, linger_s: float) -> None:
        self._connection = connection
        self._linger_s = linger_s
        self._waiting: list[tuple[MessageRow, list[AttemptRow], asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()
        self._writer = asyncio.create_task(self._write())

    @classmethod
    async def connect(cls, url: str, *, linger_s: float) -> Self:
        return cls(await asyncpg.connect(url), linger_s=linger_s)

    async def add(self, message: MessageRow, attempts: list[AttemptRow]) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((message, attempts, done))
        self._arrived.set()
        await done

    async def close(self) -> None:
        self._writer.cancel()
        await self._connection.close()

    async def _write(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(self._linger_s)
            batch, self._waiting = self._waiting[:ROWS_MAX], self._waiting[ROWS_MAX:]
            if not self._waiting:
                self._arrived.clear()
            try:
                await self._record(
                    [row for row, _, _ in batch], [row for _, rows, _ in batch for row in rows]
                )
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                for _, _, done in batch:  # not acknowledged, so it is delivered and recorded again
                    done.set_exception(error)
            else:
                for _, _, done in batch:
                    done.set_result(None)

    async def _record(self, messages: Sequence[MessageRow], attempts: Sequence[AttemptRow]) -> None:
        last = {row[0]: row for row in messages}  # a message claimed twice may be in one batch
        await self._connection.execute(
            RECORD, *zip(*last.values(), strict=True), *zip(*attempts, strict=True)
        )


def message_row(message: dict[str, Any], *, status: str, at: datetime | None) -> MessageRow:
    """Return the row of a message; `at` is when it was delivered."""
    return (
        message["id"],
        message["to_agent_id"],
        message["message_type"],
        message["priority"],
        orjson.dumps(message["content"]).decode(),
        orjson.dumps(message["metadata"]).decode(),
        status,
        message["hop"],
        datetime.fromisoformat(message["created_at"]),
        at,
    )
