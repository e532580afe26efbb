"""What counts as wrong with a store, as a table: one row per unsafe setting."""

import pytest
from msgspec.structs import replace

from broker.core.diagnosis import (
    Finding,
    PostgresFacts,
    RedisFacts,
    Severity,
    fatal,
    judge_postgres,
    judge_redis,
)

GOOD_REDIS = RedisFacts(
    version=(7, 0, 15),
    role="master",
    appends=True,
    appendfsync="always",
    syncs_in_rewrites=True,
    last_append_ok=True,
    last_rewrite_ok=True,
    last_save_ok=True,
    clients=80,
    clients_max=100,
    maxmemory_bytes=1_000_000,
    maxmemory_policy="noeviction",
    used_bytes=1_000,
    clock_ahead_ms=3,
    shards=2,
)
GOOD_POSTGRES = PostgresFacts(
    version=15,
    fsync="on",
    full_page_writes="on",
    synchronous_commit="on",
    in_recovery=False,
    read_only="off",
    encoding="UTF8",
    max_connections=100,
    connections=80,
    autovacuum="on",
    clock_ahead_ms=-3,
    pending=(),
    quarantined=0,
    days_ahead=7,
)


def redis_findings(durability: str = "always", **changed: object) -> list[Finding]:
    return judge_redis(replace(GOOD_REDIS, **changed), durability=durability, shards=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "code", "severity"),
    [
        ({"version": (6, 2, 14)}, "redis.too_old", "fatal"),
        ({"role": "slave"}, "redis.replica", "fatal"),
        ({"appends": False}, "redis.no_append_only_file", "fatal"),
        ({"appendfsync": "everysec"}, "redis.weak_appendfsync", "fatal"),
        ({"appendfsync": "no"}, "redis.weak_appendfsync", "fatal"),
        ({"appendfsync": None}, "redis.appendfsync_unknown", "warning"),
        ({"syncs_in_rewrites": False}, "redis.no_sync_in_rewrites", "fatal"),
        ({"last_append_ok": False}, "redis.append_failed", "warning"),
        ({"last_rewrite_ok": False}, "redis.rewrite_failed", "warning"),
        ({"last_save_ok": False}, "redis.save_failed", "warning"),
        ({"clients": 81}, "redis.many_clients", "warning"),
        ({"maxmemory_policy": "allkeys-lru"}, "redis.evicts", "fatal"),
        ({"maxmemory_policy": "volatile-ttl"}, "redis.evicts", "fatal"),
        ({"maxmemory_bytes": 0}, "redis.maxmemory_unset", "fatal"),
        ({"used_bytes": 700_001}, "redis.memory_high", "warning"),
        ({"clock_ahead_ms": 1_001}, "redis.clock_skew", "warning"),
        ({"clock_ahead_ms": -1_001}, "redis.clock_skew", "warning"),
        ({"shards": 4}, "redis.other_shards", "fatal"),
    ],
)
def test_each_unsafe_redis_is_found(changed: dict[str, object], code: str, severity: str) -> None:
    (finding,) = redis_findings(**changed)
    assert (finding.code, finding.severity) == (code, Severity(severity))
    assert finding.message
    assert finding.remedy


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"version": (7, 2, 4)},
        {"version": (9, 1, 0)},
        {"appendfsync": "always"},
        {"used_bytes": 700_000},
        {"clock_ahead_ms": 1_000},
        {"shards": None},
        {"syncs_in_rewrites": None},
        {"clients_max": None},
    ],
)
def test_a_good_redis_is_left_alone(changed: dict[str, object]) -> None:
    assert redis_findings(**changed) == []


@pytest.mark.parametrize(
    ("appendfsync", "codes"), [("everysec", []), ("always", []), ("no", ["redis.weak_appendfsync"])]
)
def test_the_fast_profile_takes_a_sync_every_second_and_no_less(appendfsync: str, codes: list[str]) -> None:
    assert [f.code for f in redis_findings("everysec", appendfsync=appendfsync)] == codes


def test_the_fast_profile_is_warned_of_rewrites_that_are_not_synced() -> None:
    (finding,) = redis_findings("everysec", syncs_in_rewrites=False)
    assert (finding.code, finding.severity) == ("redis.no_sync_in_rewrites", Severity.WARNING)


@pytest.mark.parametrize(
    ("changed", "code", "severity"),
    [
        ({"version": 14}, "postgres.too_old", "fatal"),
        ({"fsync": "off"}, "postgres.fsync_off", "fatal"),
        ({"full_page_writes": "off"}, "postgres.full_page_writes_off", "fatal"),
        ({"synchronous_commit": "off"}, "postgres.synchronous_commit_off", "fatal"),
        ({"in_recovery": True}, "postgres.read_only", "fatal"),
        ({"read_only": "on"}, "postgres.read_only", "fatal"),
        ({"encoding": "SQL_ASCII"}, "postgres.encoding", "fatal"),
        ({"max_connections": 49, "connections": 9}, "postgres.few_connections", "warning"),
        ({"connections": 81}, "postgres.many_connections", "warning"),
        ({"autovacuum": "off"}, "postgres.autovacuum_off", "warning"),
        ({"clock_ahead_ms": 5_000}, "postgres.clock_skew", "warning"),
        ({"pending": ("core",)}, "postgres.migrations_pending", "warning"),
        ({"days_ahead": 1}, "postgres.partitions_short", "warning"),
        ({"quarantined": 1}, "postgres.quarantine", "warning"),
    ],
)
def test_each_unsafe_postgres_is_found(changed: dict[str, object], code: str, severity: str) -> None:
    (finding,) = judge_postgres(replace(GOOD_POSTGRES, **changed))
    assert (finding.code, finding.severity) == (code, Severity(severity))
    assert finding.message
    assert finding.remedy


@pytest.mark.parametrize(
    "changed",
    [{}, {"synchronous_commit": "remote_apply"}, {"quarantined": None, "days_ahead": None}, {"version": 18}],
)
def test_a_good_postgres_is_left_alone(changed: dict[str, object]) -> None:
    assert judge_postgres(replace(GOOD_POSTGRES, **changed)) == []


def test_the_worst_comes_first() -> None:
    found = redis_findings(used_bytes=999_999, appendfsync=None, role="slave", maxmemory_policy="allkeys-lfu")
    assert [f.severity.value for f in found] == ["fatal", "fatal", "warning", "warning"]
    assert fatal(found) == found[:2]
