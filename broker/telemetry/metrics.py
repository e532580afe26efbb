"""Every metric of the product. Names read `agent_broker_<noun>_<unit>[_total]`.

Hot code takes its series once (`PUSHED = metrics.MESSAGES.child(stage="deliver", outcome="delivered")`) and
calls `inc`, `set` or `observe` on it. A process shows the series it touched; nothing is reset while it runs.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from broker.telemetry.instruments import Counter, Gauge, Histogram, Instrument, Instruments, Ranking

TOP_AGENTS_MAX: Final = 20
"""Agents shown one by one by queue depth; the rest only counts in the sums."""

FAST_SECONDS: Final = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
)
"""One call or one attempt: half a millisecond to the longest deadline."""
LONG_SECONDS: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5),
    *(1, 2, 5, 10, 30, 60, 120, 300, 600),
)
"""Publish to delivered: from a push out of memory to the last retry of the `agent` schedule."""
BATCH_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)

STAGES: Final = ("publish", "route", "deliver", "record", "keep")
OUTCOMES: Final = (
    *("accepted", "refused", "routed", "forwarded", "parked", "unparked", "duplicate", "quarantined"),
    *("delivered", "retried", "failed", "expired", "cancelled", "handed_over", "recorded"),
)
ATTEMPT_OUTCOMES: Final = ("success", "failed", "timeout")
ATTEMPT_REASONS: Final = (
    *("ok", "redirect", "client_error", "server_error", "throttled", "gone", "timeout", "connect", "resolve"),
    *("tls", "reset", "protocol", "denied", "too_large", "cancelled"),
)
TRADES: Final = ("route", "deliver", "record", "keep")
LANES: Final = ("high", "normal", "low")
QUEUES: Final = ("ingress", "mailbox", "due", "later", "parked", "ledger", "memory")
SCRIPTS: Final = ("publish", "route", "collect", "settle", "wake", "other")
STORES: Final = ("redis", "postgres")
STORE_ERRORS: Final = ("unavailable", "timeout", "data", "conflict", "other")
KEEPER_JOBS: Final = (
    *("due", "scheduled", "expired", "unparked", "swept", "offline", "partitions"),
    *("statistics", "idempotency", "departed", "outbox", "work_orders", "endpoints", "keys"),
)
WORK_ORDER_ACTIONS: Final = (
    *("create", "offer", "accept", "reject", "progress", "complete", "fail", "cancel", "expire"),
)
WORK_ORDER_OUTCOMES: Final = (
    *("done", "not_found", "agent_mismatch", "conflict", "illegal_transition", "lease_lost", "at_capacity"),
    "not_accepting",
)
PUBLISH_DOORS: Final = ("http", "batch", "native", "websocket")
SESSION_KINDS: Final = ("sse", "websocket")
SESSION_ENDS: Final = (
    *("left", "taken_over", "revoked", "has_endpoint", "agent_gone", "draining", "stalled", "failed"),
)
ACKNOWLEDGED_AS: Final = ("delivered", "processed", "failed")
REFUSALS: Final = (
    *("not_a_contact", "closed", "rate_limited", "store_away"),
    *("inbox_full", "loop", "killed", "overloaded", "key_rate", "pair_rate"),
)
SIGNATURE_REFUSALS: Final = ("unsigned", "bad_signature", "key_ended", "not_the_sender", "malformed")
STOPS: Final = ("inbox_full", "loop", "root_limit", "killed")
LOOP_SIGNS: Final = ("repeat", "alternation")
PRESENCE_STATES: Final = ("online", "away", "gone")

# --- messages -------------------------------------------------------------------------------------
MESSAGES: Final = Counter(
    "messages", "Messages that went through a stage, by how it ended.", {"stage": STAGES, "outcome": OUTCOMES}
)
QUARANTINED: Final = Counter("quarantined_entries", "Stream entries set aside because they are no message.")
SHELVED: Final = Counter(
    "shelved_messages", "Messages handed to delivery directly that were put into their mailbox after all."
)
PUBLISH_TO_DELIVERED: Final = Histogram(
    "publish_to_delivered_seconds",
    "From the publisher's timestamp to the 2xx of the recipient.",
    {"lane": LANES},
    bounds=LONG_SECONDS,
)
PUBLISHED: Final = Counter(
    "published_messages", "Messages accepted, by how they came in.", {"door": PUBLISH_DOORS}
)
TURNED_AWAY: Final = Counter(
    "turned_away_entries",
    "Entries of native publishers that were quarantined for their signature.",
    {"reason": SIGNATURE_REFUSALS},
)
REFUSED: Final = Counter(
    "refused_messages", "Messages that were not taken from their sender.", {"reason": REFUSALS}
)

STOPPED: Final = Counter(
    "stopped_messages", "Messages that routers ended instead of passing them on.", {"reason": STOPS}
)
TRIPS: Final = Counter("loop_events", "Pairs of agents that were found looping.", {"sign": LOOP_SIGNS})
BARRIERS: Final = Gauge(
    "barriers_held",
    "What this process knows to be stopped: full inboxes, looping pairs, kill switches.",
    {"kind": ("inbox", "trip", "switch")},
)
SHEDDING: Final = Gauge(
    "shedding_stores", "1 while this gateway refuses to publish because Redis runs out of memory."
)

# --- delivery -------------------------------------------------------------------------------------
ATTEMPTS: Final = Counter(
    "delivery_attempts",
    "Pushes to endpoints, by outcome and reason.",
    {"outcome": ATTEMPT_OUTCOMES, "reason": ATTEMPT_REASONS},
)
DELIVERY_SECONDS: Final = Histogram(
    "delivery_seconds",
    "One push, from its start to its end.",
    {"outcome": ATTEMPT_OUTCOMES},
    bounds=FAST_SECONDS,
)
IN_FLIGHT: Final = Gauge("in_flight_requests", "Pushes under way.")
BREAKERS_OPEN: Final = Gauge("breakers_open", "Endpoints that get nothing but a probe now and then.")
ENDPOINT_CONNECTIONS: Final = Gauge("endpoint_connections", "Open connections to endpoints.")

# --- queues ---------------------------------------------------------------------------------------
QUEUE_DEPTH: Final = Gauge("queue_depth_messages", "Messages waiting, by where.", {"queue": QUEUES})
AGENT_QUEUE_DEPTH: Final = Ranking(
    "agent_queue_depth_messages",
    "Messages waiting for an agent, for the agents with the most.",
    "agent",
    rows_max=TOP_AGENTS_MAX,
)
LEDGER_LAG_ENTRIES: Final = Gauge("ledger_lag_entries", "Ledger entries not yet in Postgres.")
LEDGER_LAG_SECONDS: Final = Gauge("ledger_lag_seconds", "Age of the oldest ledger entry not yet in Postgres.")

# --- ownership and directory ----------------------------------------------------------------------
LEASES_HELD: Final = Gauge("leases_held", "Shards this process owns.", {"trade": TRADES})
FENCED: Final = Counter("fenced_calls", "Calls refused because the shard had a new owner.", {"trade": TRADES})
AGENTS_KNOWN: Final = Gauge("agents_known", "Agents in this process's directory.")
AGENTS_SEALED: Final = Gauge(
    "agents_sealed", "Agents whose signing secret no key of SECRETS_KEY opens; nothing is pushed to them."
)
AGENTS_ONLINE: Final = Gauge("agents_online", "Agents heard of within the online window.")
PRESENCE_CHANGES: Final = Counter(
    "presence_changes", "Changes of presence told, by the new state.", {"state": PRESENCE_STATES}
)

# --- stores ---------------------------------------------------------------------------------------
AWAITED: Final = Gauge(
    "awaited_stores", "1 while this process cannot do its work without the store.", {"store": STORES}
)
REDIS_CONNECTIONS: Final = Gauge("redis_connections", "Open connections of this process to Redis.")
POSTGRES_CONNECTIONS: Final = Gauge(
    "postgres_connections",
    "Connections of this process to Postgres: in use, and callers that wait for one.",
    {"state": ("in_use", "wanted")},
)
REDIS_MEMORY: Final = Gauge("redis_memory_ratio", "Memory in use by its limit, of the fullest Redis.")
REDIS_EMPTIED: Final = Counter(
    "redis_emptied_events", "Times that Redis was found emptied: what was in flight is lost."
)
SCRIPT_SECONDS: Final = Histogram(
    "script_seconds", "One script call, sent to answered.", {"script": SCRIPTS}, bounds=FAST_SECONDS
)
POSTGRES_ERRORS: Final = Counter("postgres_errors", "Failed statements.", {"kind": STORE_ERRORS})
RECORD_SECONDS: Final = Histogram("record_seconds", "One transaction of the recorder.", bounds=FAST_SECONDS)
RECORD_EVENTS: Final = Histogram(
    "record_events", "Events per transaction of the recorder.", bounds=BATCH_SIZES
)
KEPT: Final = Counter("kept_messages", "What the keeper moved or ended.", {"job": KEEPER_JOBS})
REROUTED: Final = Counter(
    "rerouted_messages",
    "Messages passed on to another capable agent, by why.",
    {"reason": ("declined", "failed")},
)
DEAD_LETTERS: Final = Counter("dead_messages", "Messages recorded as failed or expired.", {"reason": None})
BOUNCES: Final = Counter(
    "bounced_messages",
    "Bad ends their senders are told of: by a note, held for the next summary; and summaries.",
    {"outcome": ("told", "held", "summed")},
)
PARTITIONS_AHEAD: Final = Gauge("partitions_ahead_days", "Days for which partitions exist already.")

# --- gateway --------------------------------------------------------------------------------------
HTTP_REQUESTS: Final = Counter(
    "http_requests", "Requests by operation and class of status.", {"operation": None, "status": None}
)
HTTP_SECONDS: Final = Histogram(
    "http_seconds", "Requests by operation.", {"operation": None}, bounds=FAST_SECONDS
)
IDEMPOTENT: Final = Counter(
    "idempotent_requests",
    "Requests with an Idempotency-Key, by what it came to.",
    {"outcome": ("first", "replayed", "mismatched")},
)
DEAD_LETTERS_REPLAYED: Final = Counter(
    "replayed_messages", "Dead letters asked to be replayed.", {"outcome": ("replayed", "skipped")}
)
WAITERS: Final = Gauge("waiting_requests", "Requests that wait for a receipt.")
SESSIONS: Final = Gauge("live_sessions", "Open live sessions.", {"kind": SESSION_KINDS})
SESSIONS_ENDED: Final = Counter("ended_live_sessions", "Live sessions that ended.", {"reason": SESSION_ENDS})
STREAMED: Final = Counter("streamed_messages", "Messages sent over live sessions.", {"kind": SESSION_KINDS})
ACKNOWLEDGED: Final = Counter(
    "acknowledged_messages", "Messages acknowledged over live sessions.", {"status": ACKNOWLEDGED_AS}
)

# --- work orders ----------------------------------------------------------------------------------
WORK_ORDERS: Final = Counter(
    "work_order_actions",
    "What was done to work orders, or refused and why.",
    {"action": WORK_ORDER_ACTIONS, "outcome": WORK_ORDER_OUTCOMES},
)
OUTBOX_MESSAGES: Final = Gauge("outbox_messages", "Messages in the outbox: committed, perhaps unpublished.")
OUTBOX_AGE_SECONDS: Final = Gauge("outbox_age_seconds", "Age of the oldest message in the outbox.")

# --- processes ------------------------------------------------------------------------------------
BUILD: Final = Gauge("build_info", "Always 1; the label says which version runs.", {"version": None})
RESTARTS: Final = Counter("process_restarts", "Processes the supervisor started again.", {"child": None})


def registry() -> CollectorRegistry:
    """Return a registry with every metric above, and CPU, memory and garbage collection of this process."""
    made = Instruments(
        one for one in globals().values() if isinstance(one, Instrument | Ranking)
    ).registered()
    ProcessCollector(registry=made)
    GCCollector(registry=made)
    return made


def render() -> bytes:
    """Return what a scrape of this process shows."""
    return generate_latest(_registry)


def installed_version() -> str:
    """Return the version of the distribution."""
    try:
        return version("agent-broker")
    except PackageNotFoundError:
        return "unknown"


BUILD.child(version=installed_version()).set(1)
_registry: Final = registry()
