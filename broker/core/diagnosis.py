"""What is wrong with the stores of a deployment: facts in, findings out.

A finding is fatal where the broker could not keep its promises (an acknowledged message could vanish, a row
that was committed could), or could not work at all; a warning where somebody should look. Each says what is
wrong and how to mend it.
"""

from enum import Enum
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from broker.core.admission import SHED_RATIO

REDIS_VERSION_MIN: Final = (7, 0)
POSTGRES_VERSION_MIN: Final = 15
SKEW_MS_MAX: Final = 1_000
"""Times inside scripts are the server's, so a skewed host harms nothing; it confuses whoever reads logs."""
CLIENTS_USED_MAX: Final = 0.8
"""Of the connections a server takes at most: beyond, a restart of the broker may find none left."""
CONNECTIONS_MIN: Final = 50
DAYS_AHEAD_MIN: Final = 2

Durability = Literal["always", "everysec"]


class Severity(Enum):
    """`FATAL`: processes refuse to start on it. `WARNING`: it works, and somebody should look."""

    FATAL = "fatal"
    WARNING = "warning"


class Finding(Struct, frozen=True):
    """One thing that is wrong. `code` is stable, for programs: `redis.maxmemory_unset`."""

    code: str
    severity: Severity
    message: str
    remedy: str


class RedisFacts(Struct, kw_only=True, frozen=True):
    """What a Redis or Valkey says of itself. `appendfsync` and `syncs_in_rewrites` are None where it does not
    let us ask.

    `clock_ahead_ms`: its clock against this host's. `node`: which one of a cluster it is.
    """

    node: str = ""
    version: tuple[int, ...]
    role: str
    appends: bool
    appendfsync: str | None
    syncs_in_rewrites: bool | None
    last_append_ok: bool
    last_rewrite_ok: bool
    last_save_ok: bool
    clients: int
    clients_max: int | None
    maxmemory_bytes: int
    maxmemory_policy: str
    used_bytes: int
    clock_ahead_ms: int
    shards: int | None


class ClusterFacts(Struct, kw_only=True, frozen=True):
    """How the nodes of a cluster share the work: shards by node, the moves (`slot 5649 from a:1 to b:2`) that
    would make it even, shards nobody serves, nodes that do not answer."""

    shards_by_node: dict[str, int]
    moves: tuple[str, ...]
    unserved: tuple[int, ...]
    away: tuple[str, ...]


class PostgresFacts(Struct, kw_only=True, frozen=True):
    """What a PostgreSQL says of itself, in its own words (`on`, `off`).

    `quarantined` and `days_ahead` are None before the first migration.
    """

    version: int
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    in_recovery: bool
    read_only: str
    encoding: str
    max_connections: int
    connections: int
    autovacuum: str
    clock_ahead_ms: int
    pending: tuple[str, ...]
    quarantined: int | None
    days_ahead: int | None


def judge_redis(facts: RedisFacts, *, durability: Durability, shards: int) -> list[Finding]:
    """Return what is wrong with a Redis, the worst first."""
    found = [
        *_redis_kind(facts),
        *_redis_persistence(facts, durability),
        *_redis_disk(facts),
        *_redis_memory(facts),
        *_redis_clients(facts),
        *_skew("redis", facts.clock_ahead_ms),
    ]
    if facts.shards not in (None, shards):
        found.append(
            _fatal(
                "redis.other_shards",
                f"this deployment was created with {facts.shards} shards, SHARDS says {shards}",
                f"set SHARDS={facts.shards}: messages would be looked for in the wrong place",
            )
        )
    if facts.node:
        found = [replace(one, message=f"node {facts.node}: {one.message}") for one in found]
    return worst_first(found)


def judge_cluster(facts: ClusterFacts) -> list[Finding]:
    """Return what is wrong with how a cluster serves the deployment. Nothing of it keeps a process from
    starting: what a missing node serves stands still, and the rest goes on."""
    found = [
        _warning(
            "redis.node_away",
            f"node {node} does not answer: its shards stand still",
            "start it again, or let a replica take its place",
        )
        for node in facts.away
    ]
    if facts.unserved:
        shards = ", ".join(map(str, facts.unserved))
        found.append(
            _warning(
                "redis.shards_unserved",
                f"no node serves the slots of these shards: {shards}",
                "assign every slot (valkey-cli --cluster fix)",
            )
        )
    if facts.moves:
        shares = ", ".join(f"{node} {count}" for node, count in facts.shards_by_node.items())
        found.append(
            _warning(
                "redis.uneven_nodes",
                f"the nodes serve unequal numbers of shards: {shares}",
                f"move {'; '.join(facts.moves)} (CLUSTER MIGRATESLOTS, or valkey-cli --cluster reshard)",
            )
        )
    return found


def judge_postgres(facts: PostgresFacts) -> list[Finding]:
    """Return what is wrong with a PostgreSQL, the worst first."""
    return worst_first(
        [
            *_postgres_kind(facts),
            *_postgres_promises(facts),
            *_record(facts),
            *_skew("postgres", facts.clock_ahead_ms),
        ]
    )


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Return the findings, fatal ones first, each kind in its order."""
    return sorted(findings, key=lambda finding: finding.severity is not Severity.FATAL)


def fatal(findings: list[Finding]) -> list[Finding]:
    """Return those on which no process may start."""
    return [finding for finding in findings if finding.severity is Severity.FATAL]


# --- Redis ------------------------------------------------------------------------------------------------


def _redis_kind(facts: RedisFacts) -> list[Finding]:
    found = []
    if facts.version < REDIS_VERSION_MIN:
        version = ".".join(map(str, facts.version))
        found.append(_fatal("redis.too_old", f"Redis {version}", "use Redis 7.0 or Valkey 8, or newer"))
    if facts.role != "master":
        found.append(_fatal("redis.replica", "this Redis is a replica", "point REDIS_URL at the primary"))
    return found


def _redis_persistence(facts: RedisFacts, durability: Durability) -> list[Finding]:
    if not facts.appends:
        return [
            _fatal(
                "redis.no_append_only_file",
                "appendonly is off: what was acknowledged is gone after a restart",
                "CONFIG SET appendonly yes, and the same in its configuration file",
            )
        ]
    found = []
    if facts.appendfsync is None:
        found.append(
            _warning(
                "redis.appendfsync_unknown",
                "this Redis does not say how it syncs (CONFIG GET is not allowed)",
                f"make sure that it runs with appendfsync {durability}",
            )
        )
    elif facts.appendfsync != "always" and (durability == "always" or facts.appendfsync == "no"):
        found.append(
            _fatal(
                "redis.weak_appendfsync",
                f"appendfsync is {facts.appendfsync}, the deployment promises DURABILITY={durability}",
                f"CONFIG SET appendfsync {durability}, or choose DURABILITY=everysec and know what it costs",
            )
        )
    if facts.syncs_in_rewrites is False:
        kind = _fatal if durability == "always" else _warning
        found.append(
            kind(
                "redis.no_sync_in_rewrites",
                "no-appendfsync-on-rewrite is yes: while the append-only file is rewritten nothing is synced",
                "CONFIG SET no-appendfsync-on-rewrite no, and the same in its configuration file",
            )
        )
    return found


def _redis_disk(facts: RedisFacts) -> list[Finding]:
    found = []
    if not facts.last_append_ok:
        found.append(
            _warning(
                "redis.append_failed",
                "the last write to the append-only file failed: Redis refuses writes until one succeeds",
                "look at its log; most often the disk is full",
            )
        )
    if not facts.last_rewrite_ok:
        found.append(
            _warning(
                "redis.rewrite_failed",
                "the last rewrite of the append-only file failed: the file grows until the disk is full",
                "make room on its disk (a rewrite needs as much as it holds in memory), then BGREWRITEAOF",
            )
        )
    if not facts.last_save_ok:
        found.append(
            _warning(
                "redis.save_failed",
                "the last snapshot failed: Redis may refuse writes (stop-writes-on-bgsave-error)",
                'make room on its disk, or do without snapshots: CONFIG SET save ""',
            )
        )
    return found


def _redis_clients(facts: RedisFacts) -> list[Finding]:
    if facts.clients_max is None or facts.clients <= CLIENTS_USED_MAX * facts.clients_max:
        return []
    return [
        _warning(
            "redis.many_clients",
            f"{facts.clients} of at most {facts.clients_max} clients are connected",
            "CONFIG SET maxclients to more, or see who they are: CLIENT LIST",
        )
    ]


def _redis_memory(facts: RedisFacts) -> list[Finding]:
    found = []
    if facts.maxmemory_policy != "noeviction":
        found.append(
            _fatal(
                "redis.evicts",
                f"maxmemory-policy is {facts.maxmemory_policy}: full, it would delete messages",
                "CONFIG SET maxmemory-policy noeviction",
            )
        )
    if facts.maxmemory_bytes == 0:
        found.append(
            _fatal(
                "redis.maxmemory_unset",
                "maxmemory is 0: full, the kernel would kill it",
                "CONFIG SET maxmemory to about three quarters of the machine's memory",
            )
        )
    elif facts.used_bytes > SHED_RATIO * facts.maxmemory_bytes:
        share = facts.used_bytes * 100 // facts.maxmemory_bytes
        found.append(
            _warning(
                "redis.memory_high",
                f"{share} % of maxmemory is used",
                "see which queue grows (agent_broker_queue_depth_messages), or raise maxmemory",
            )
        )
    return found


# --- PostgreSQL -------------------------------------------------------------------------------------------


def _postgres_kind(facts: PostgresFacts) -> list[Finding]:
    found = []
    if facts.version < POSTGRES_VERSION_MIN:
        found.append(
            _fatal(
                "postgres.too_old",
                f"PostgreSQL {facts.version}",
                f"use PostgreSQL {POSTGRES_VERSION_MIN} or newer",
            )
        )
    if facts.in_recovery or facts.read_only == "on":
        what = "a standby" if facts.in_recovery else "read-only (default_transaction_read_only)"
        found.append(
            _fatal("postgres.read_only", f"this PostgreSQL is {what}", "point DATABASE_URL at the primary")
        )
    if facts.encoding != "UTF8":
        found.append(
            _fatal(
                "postgres.encoding",
                f"the database's encoding is {facts.encoding}",
                "create it with ENCODING 'UTF8': messages are UTF-8",
            )
        )
    if facts.max_connections < CONNECTIONS_MIN:
        found.append(
            _warning(
                "postgres.few_connections",
                f"max_connections is {facts.max_connections}",
                f"a deployment takes about 30; {CONNECTIONS_MIN} and more leave room",
            )
        )
    if facts.connections > CLIENTS_USED_MAX * facts.max_connections:
        found.append(
            _warning(
                "postgres.many_connections",
                f"{facts.connections} of at most {facts.max_connections} connections are taken",
                "raise max_connections, or see who they are: SELECT * FROM pg_stat_activity",
            )
        )
    if facts.autovacuum == "off":
        found.append(
            _warning(
                "postgres.autovacuum_off",
                "autovacuum is off: tables that change much (outbox, statistics, agents) grow without end",
                "ALTER SYSTEM SET autovacuum = on, then reload",
            )
        )
    return found


def _postgres_promises(facts: PostgresFacts) -> list[Finding]:
    off = {
        "fsync": facts.fsync,
        "full_page_writes": facts.full_page_writes,
        "synchronous_commit": facts.synchronous_commit,
    }
    return [
        _fatal(
            f"postgres.{name}_off",
            f"{name} is off: committed rows can vanish in a crash, after the ledger was cut behind them",
            f"ALTER SYSTEM SET {name} = on, then reload",
        )
        for name, value in off.items()
        if value == "off"
    ]


def _record(facts: PostgresFacts) -> list[Finding]:
    if facts.pending:
        names = ", ".join(facts.pending)
        return [
            _warning("postgres.migrations_pending", f"migrations to apply: {names}", "agent-broker migrate")
        ]
    found = []
    if facts.days_ahead is not None and facts.days_ahead < DAYS_AHEAD_MIN:
        found.append(
            _warning(
                "postgres.partitions_short",
                f"there are partitions for {facts.days_ahead} days after today",
                "see that a keeper runs: it makes them a week ahead",
            )
        )
    if facts.quarantined:
        found.append(
            _warning(
                "postgres.quarantine",
                f"{facts.quarantined} entries were set aside because they were no messages",
                "SELECT at, stream, reason, detail FROM quarantine; delete what was dealt with",
            )
        )
    return found


def _skew(store: str, ahead_ms: int) -> list[Finding]:
    if abs(ahead_ms) <= SKEW_MS_MAX:
        return []
    direction = "ahead of" if ahead_ms > 0 else "behind"
    return [
        _warning(
            f"{store}.clock_skew",
            f"its clock is {abs(ahead_ms) / 1000:.1f} s {direction} this host's",
            "run a time service on both",
        )
    ]


def _fatal(code: str, message: str, remedy: str) -> Finding:
    return Finding(code, Severity.FATAL, message, remedy)


def _warning(code: str, message: str, remedy: str) -> Finding:
    return Finding(code, Severity.WARNING, message, remedy)
