"""Examine the stores and the settings of a deployment.

A store that cannot be reached is a finding of its own, not an error: the doctor reports on the other one all
the same, and processes wait for it.
"""

import asyncio
from typing import Final

from broker.core.diagnosis import Finding, Severity, judge_cluster, judge_postgres, judge_redis, worst_first
from broker.doctor.secrets import judge_secrets
from broker.doctor.settings import judge_settings
from broker.settings import Settings
from broker.store.facts import postgres_facts
from broker.store.pool import open_pool
from broker.store.sealing import counted
from broker.streams.connection import Connection, open_connection
from broker.streams.facts import redis_facts
from schema.errors import BrokerError, Unavailable

PATIENCE_S: Final = 10.0


async def examine(settings: Settings) -> list[Finding]:
    """Return everything that is wrong, the worst first."""
    parts = await asyncio.gather(_redis(settings), _postgres(settings))
    return worst_first([*parts[0], *parts[1], *judge_settings(settings)])


async def examine_redis(connection: Connection, settings: Settings) -> list[Finding]:
    """Return what is wrong with the Redis behind a connection. Raises: BrokerError of the connection."""
    servers, cluster = await redis_facts(connection, shards=settings.shards)
    found = [] if cluster is None else judge_cluster(cluster)
    for facts in servers:
        found += judge_redis(facts, durability=settings.durability, shards=settings.shards)
    return worst_first(found)


async def _redis(settings: Settings) -> list[Finding]:
    try:
        async with asyncio.timeout(PATIENCE_S):
            connection = await open_connection(settings.redis_url, name="doctor")
            async with connection:
                return await examine_redis(connection, settings)
    except (BrokerError, TimeoutError) as error:
        return [_away("redis", "REDIS_URL", error)]


async def _postgres(settings: Settings) -> list[Finding]:
    pool = await open_pool(
        settings.database_url,
        size=1,
        application_name="agent-broker doctor",
        secrets_keys=settings.secrets_keys,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            facts = await postgres_facts(pool)
            sealed = [] if facts.pending else judge_secrets(await counted(pool), pool.sealer)
            return [*judge_postgres(facts), *sealed]
    except (BrokerError, TimeoutError) as error:
        return [_away("postgres", "DATABASE_URL", error)]
    finally:
        await pool.aclose()


def _away(store: str, setting: str, error: BrokerError | TimeoutError) -> Finding:
    reason = error.message if isinstance(error, BrokerError) else "no answer in time"
    kind = "unreachable" if isinstance(error, Unavailable | TimeoutError) else "refuses"
    return Finding(
        f"{store}.{kind}",
        Severity.FATAL,
        reason,
        f"see that it runs, and that {setting} says where and as whom",
    )
