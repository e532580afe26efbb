"""Claims of idempotency keys: who came first with a key, under which id it runs, what it was answered.

A claim outlives the process that made it; without a reply it says under which id to run again.
"""

from datetime import datetime
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct

from broker.store.pool import Pool
from broker.store.statements import load
from schema.limits import IDEMPOTENCY_MS
from schema.times import from_ms

_CLAIM: Final = load("idempotency_claim")
_FIND: Final = load("idempotency_find")
_ANSWER: Final = load("idempotency_answer")
_RELEASE: Final = load("idempotency_release")
_FORGET: Final = load("idempotency_forget")

TRIES: Final = 3
"""Between losing a claim and reading it, it may have been released: then it is claimed again."""
BATCH_ROWS: Final = 2_000


class Answer(Struct, frozen=True):
    """A reply as it was given: encoded body and headers."""

    status: int
    body: bytes
    headers: list[tuple[str, str]]


class Claim(Struct, frozen=True):
    """A key somebody came with. `body`: the hash of the request it was made for. `answer` None: not yet."""

    key: bytes
    body: bytes
    target_id: str
    answer: Answer | None


_headers: Final = msgspec.json.Decoder(list[tuple[str, str]])


async def claim(pool: Pool, key: bytes, body: bytes, *, target_id: str, now_ms: int) -> Claim:
    """Claim a key, or return the claim there is, made within the last 24 hours. Raises: StoreUnavailable."""
    now = from_ms(now_ms)
    async with pool.connection() as connection:
        for _ in range(TRIES):
            row = await connection.fetchrow(_CLAIM, key, body, target_id, now, _forgotten(now_ms))
            row = row or await connection.fetchrow(_FIND, key)
            if row is not None:
                return _claim(row)
    return Claim(key, body, target_id, None)


async def answer(pool: Pool, made: Claim, given: Answer) -> Answer:
    """Keep the reply to a claim; return the first one given: this very one, or another's.

    Raises: StoreUnavailable.
    """
    headers = msgspec.json.encode(given.headers).decode()
    async with pool.connection() as connection:
        kept = await connection.fetchval(_ANSWER, made.key, made.target_id, given.status, given.body, headers)
        row = None if kept else await connection.fetchrow(_FIND, made.key)
    there = None if row is None else _claim(row)
    if there is None or there.answer is None or there.target_id != made.target_id:
        return given
    return there.answer


async def release(pool: Pool, made: Claim) -> None:
    """Give a claim up: what it was made for was refused and did nothing. Raises: StoreUnavailable."""
    await pool.execute(_RELEASE, made.key, made.target_id)


async def forget(pool: Pool, *, now_ms: int) -> int:
    """Delete claims older than 24 hours, a batch of them; return how many. Raises: StoreUnavailable."""
    gone: int = await pool.fetch_value(_FORGET, _forgotten(now_ms), BATCH_ROWS)
    return gone


def _forgotten(now_ms: int) -> datetime:
    """Return when a claim was made that is forgotten now."""
    return from_ms(now_ms - IDEMPOTENCY_MS)


def _claim(row: asyncpg.Record) -> Claim:
    given = None
    if row["status"] is not None:
        given = Answer(row["status"], row["reply"], _headers.decode(row["headers"]))
    return Claim(row["key"], row["body"], str(row["target_id"]), given)
