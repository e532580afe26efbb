"""Refuse to start on stores and settings with which the broker cannot keep its promises.

A store that is away is no reason: processes wait for it, and it is judged when it has come.
"""

import asyncio
from typing import Final

from broker.core.diagnosis import Finding, fatal, judge_postgres
from broker.doctor.examination import examine_redis
from broker.doctor.settings import judge_access
from broker.settings import Settings
from broker.store.facts import postgres_facts
from broker.store.pool import Pool, open_pool
from broker.streams.connection import Connection, open_connection
from broker.telemetry import logs
from schema.errors import StoreUnavailable, StreamsUnavailable, Unsafe

LOOK_AGAIN_S: Final = 2.0


async def refuse_unsafe_redis(connection: Connection, settings: Settings) -> None:
    """Return where this Redis will do. Raises: Unsafe; StreamsUnavailable as the connection failed."""
    _refuse(await examine_redis(connection, settings))


async def refuse_unsafe_postgres(pool: Pool) -> bool:
    """Return true where this PostgreSQL will do, false where it is away. Raises: Unsafe."""
    try:
        facts = await postgres_facts(pool)
    except StoreUnavailable:
        return False
    _refuse(judge_postgres(facts))
    return True


async def refuse_unsafe_postgres_in_time(pool: Pool) -> None:
    """Judge a PostgreSQL as soon as it is there; returns then. Raises: Unsafe."""
    while not await refuse_unsafe_postgres(pool):  # noqa: ASYNC110  # it does not tell when it has come
        await asyncio.sleep(LOOK_AGAIN_S)


def refuse_unsafe_access(settings: Settings) -> None:
    """Return where only those with a key come in. For whoever listens. Raises: Unsafe."""
    _refuse(judge_access(settings))


async def refuse_unsafe_stores(settings: Settings) -> None:
    """Judge both stores once, those that are there. Raises: Unsafe."""
    try:
        async with await open_connection(settings.redis_url, name="gate") as connection:
            await refuse_unsafe_redis(connection, settings)
    except StreamsUnavailable as error:
        logs.warning("doctor.redis_away", reason=error.message)
    pool = await open_pool(settings.database_url, size=1, application_name="agent-broker gate")
    try:
        await refuse_unsafe_postgres(pool)
    finally:
        await pool.aclose()


def _refuse(findings: list[Finding]) -> None:
    worst = fatal(findings)
    for finding in worst:
        logs.error("doctor.refused", code=finding.code, reason=finding.message, remedy=finding.remedy)
    if worst:
        rest = f" (and {len(worst) - 1} more)" if len(worst) > 1 else ""
        raise Unsafe(f"{worst[0].code}: {worst[0].message}{rest}; see `agent-broker doctor`")
