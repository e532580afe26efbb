"""Refuse to start on stores that cannot keep the broker's promises.

A store that is away is no reason: processes wait for it, and the doctor has nothing to say about it then.
"""

from broker.core.diagnosis import Finding, fatal, judge_postgres
from broker.doctor.examination import examine_redis
from broker.settings import Settings
from broker.store.facts import postgres_facts
from broker.store.pool import Pool
from broker.streams.connection import Connection
from broker.telemetry import logs
from schema.errors import StoreUnavailable, Unsafe


async def refuse_unsafe_redis(connection: Connection, settings: Settings) -> None:
    """Return where this Redis will do. Raises: Unsafe; StreamsUnavailable as the connection failed."""
    _refuse(await examine_redis(connection, settings))


async def refuse_unsafe_postgres(pool: Pool) -> None:
    """Return where this PostgreSQL will do, or is away. Raises: Unsafe."""
    try:
        facts = await postgres_facts(pool)
    except StoreUnavailable:
        return
    _refuse(judge_postgres(facts))


def _refuse(findings: list[Finding]) -> None:
    worst = fatal(findings)
    for finding in worst:
        logs.error("doctor.refused", code=finding.code, reason=finding.message, remedy=finding.remedy)
    if worst:
        rest = f" (and {len(worst) - 1} more)" if len(worst) > 1 else ""
        raise Unsafe(f"{worst[0].code}: {worst[0].message}{rest}; see `agent-broker doctor`")
