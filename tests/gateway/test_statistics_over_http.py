"""Statistics over HTTP: of an agent, of the deployment, and who may ask."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from gateway_rig import Register, calling
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from broker.core.fold import fold
from broker.gateway.serve import Running
from broker.gateway.statistics.summary import percentile, summarize
from broker.store import partitions, record, statistics
from broker.store.statistics import Counted, Deliveries, Total, bucket_ms
from schema.codec import encode
from schema.errors import StreamsUnavailable
from schema.ids import new_id
from schema.ledger import Event, EventKind
from schema.message import Envelope, Status
from schema.times import from_ms, to_ms

URL = "/api/v1/messaging/stats"


async def write(
    gateway: Running,
    to: str,
    status: Status,
    *,
    sender: str | None = None,
    message_type: str = "task",
    took_ms: int = 10,
    reason: str | None = None,
    days_ago: int = 0,
) -> None:
    made = from_ms(to_ms(datetime.now(UTC) - timedelta(days=days_ago)))
    await partitions.ensure_day(gateway.services.pool, made.date())
    message = Envelope(
        id=new_id(), from_agent_id=sender, to_agent_id=to, message_type=message_type, created_at=made
    )
    event = Event(
        kind=EventKind.SETTLED if status is not Status.PENDING else EventKind.ROUTED,
        id=message.id,
        at_ms=to_ms(made) + took_ms,
        message=Raw(encode(message)),
        to=to,
        status=status,
        reason=reason,
    )
    await record.write(gateway.services.pool, fold([event]))


async def asked(http: httpx.AsyncClient, **query: Any) -> Any:
    reply = await http.get(URL, params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_an_agent_is_shown_what_it_received_and_what_it_sent(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    a, b = await register("a"), await register("b")
    for took_ms in (*[10] * 18, 1_000, 5_000):
        await write(gateway, a["id"], Status.DELIVERED, sender=b["id"], took_ms=took_ms)
    await write(gateway, a["id"], Status.PENDING, message_type="question")
    await write(gateway, a["id"], Status.FAILED, reason="exhausted")
    await write(gateway, a["id"], Status.FAILED, reason="The car was not there.")
    await write(gateway, a["id"], Status.EXPIRED, reason="expired")
    await write(gateway, b["id"], Status.CANCELLED, sender=a["id"])
    for _ in ("unfolded", "folded"):
        shown = await asked(http, agent_id="a")
        assert shown["agent_id"] == a["id"]
        assert shown["by_status"] == {
            **{"pending": 1, "delivered": 20, "processed": 0, "failed": 2, "expired": 1, "cancelled": 0}
        }
        assert shown["total_messages"] == 24
        assert shown["by_type"] == {"task": 23, "question": 1}
        assert shown["failure_reasons"] == {"exhausted": 1, "expired": 1, "other": 1}
        assert shown["delivery_success_rate"] == pytest.approx(20 / 23, abs=1e-6)
        assert shown["average_delivery_ms"] == pytest.approx((18 * 10 + 6_000) / 20)
        assert 1_000 / 1.13 <= shown["p95_delivery_ms"] <= 1_000 * 1.13
        assert shown["queue_depth"] == 1
        assert len(shown["throughput"]) == 60
        assert sum(point["accepted"] for point in shown["throughput"]) == 24
        assert sum(point["delivered"] for point in shown["throughput"]) >= 18
        assert (shown["sent"]["total_messages"], shown["sent"]["by_status"]["cancelled"]) == (1, 1)
        assert shown["sent"]["delivery_success_rate"] is None
        assert shown["sent"]["p95_delivery_ms"] is None
        assert shown["complete"] is True
        now_ms = to_ms(datetime.now(UTC))
        await statistics.fold(gateway.services.pool, messages=1_000, minutes_since_ms=now_ms - 7_200_000)
    assert (await asked(http, agent_id=b["id"]))["sent"]["total_messages"] == 20


async def test_the_deployment_is_shown_whole_to_operators_only(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    a, b = await register("a"), await register("b")
    await write(gateway, a["id"], Status.DELIVERED, sender=b["id"])
    await write(gateway, b["id"], Status.PENDING, sender=a["id"])
    whole = await asked(http)
    assert (whole["agent_id"], whole["total_messages"], whole["queue_depth"]) == (None, 2, 1)
    assert whole["sent"] is None
    assert whole["since"] == f"{datetime.now(UTC):%Y-%m-%d}"
    async with calling(gateway, a["api_key"]) as own:
        for query in ({}, {"agent_id": "a"}, {"agent_id": a["id"]}):
            shown = await asked(own, **query)
            assert (shown["agent_id"], shown["total_messages"]) == (a["id"], 1)
        foreign = await own.get(URL, params={"agent_id": "b"})
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "agent_mismatch")
    claimed = await http.get(URL, headers={"X-Agent-Id": "b"})
    assert claimed.json()["agent_id"] == b["id"]


async def test_days_count_only_messages_created_since(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    a = await register("a")
    for days_ago in (0, 1, 3):
        await write(gateway, a["id"], Status.DELIVERED, days_ago=days_ago)
    totals = [(await asked(http, agent_id="a", days=days))["total_messages"] for days in (1, 2, 3, 4)]
    assert totals == [1, 2, 2, 3]
    assert (await asked(http, days=2))["since"] == f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"


async def test_nothing_yet_is_zeros_and_nulls(http: httpx.AsyncClient) -> None:
    shown = await asked(http)
    assert (shown["total_messages"], shown["by_type"], shown["failure_reasons"]) == (0, {}, {})
    assert set(shown["by_status"].values()) == {0}
    for name in ("delivery_success_rate", "average_delivery_ms", "p95_delivery_ms"):
        assert shown[name] is None
    assert shown["work_orders"]["total"] == 0


async def test_work_orders_and_agents_online_are_counted(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    a, b = await register("a"), await register("b")
    await http.post(f"/api/agents/{a['id']}/heartbeat")
    await gateway.services.pool.execute(
        "INSERT INTO work_orders (id, requester_id, worker_id, status, created_at, updated_at, is_open,"
        " title, description, requirements)"
        " VALUES ($1, $2, $3, 'pending', now(), now(), false, 't', 'd', '{}')",
        *(new_id(), a["id"], b["id"]),
    )
    whole = await asked(http)
    assert whole["agents_online"] == 1
    assert whole["work_orders"] == {
        **{"total": 1, "by_status": {"pending": 1}, "as_worker": None, "as_requester": None}
    }
    of_worker = (await asked(http, agent_id="b"))["work_orders"]
    assert (of_worker["as_worker"], of_worker["as_requester"]) == ({"pending": 1}, {})


async def test_without_redis_nobody_knows_who_is_online(
    gateway: Running, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: int) -> int:
        raise StreamsUnavailable("away")

    monkeypatch.setattr(gateway.services.presence, "count_online", away)
    assert (await asked(http))["agents_online"] is None


@pytest.mark.parametrize(
    ("query", "status"),
    [({"days": 0}, 422), ({"days": 3651}, 422), ({"days": "all"}, 422), ({"agent_id": "nobody"}, 404)],
    ids=range(4),
)
async def test_what_is_wrong_with_asking_is_told(
    http: httpx.AsyncClient, query: dict[str, Any], status: int
) -> None:
    assert (await http.get(URL, params=query)).status_code == status


async def test_without_a_key_nobody_is_told_anything(gateway: Running) -> None:
    async with calling(gateway, None) as stranger:
        assert (await stranger.get(URL)).status_code == 401


# --- what follows from sums -------------------------------------------------------------------------


@given(st.lists(st.integers(1, 10_000_000), min_size=1, max_size=200))
def test_a_percentile_is_right_within_a_bucket(times_ms: list[int]) -> None:
    buckets: dict[int, int] = {}
    for took_ms in times_ms:
        bucket = next(b for b in range(200) if bucket_ms(b + 1) > took_ms * (1 + 1e-9))
        buckets[bucket] = buckets.get(bucket, 0) + 1
    found = percentile([Deliveries("all", b, n, 0) for b, n in buckets.items()], 0.95)
    exact = sorted(times_ms)[max(0, -(-len(times_ms) * 95 // 100) - 1)]
    assert found is not None
    assert exact / 1.13 <= found <= exact * 1.13


def test_a_message_taken_back_counts_for_neither_side_of_the_rate() -> None:
    totals = [Total("all", status, "t", "", 1) for status in ("delivered", "cancelled", "pending", "failed")]
    found = summarize(Counted(totals, [], [], None, True), "all", now_ms=0)
    assert found.delivery_success_rate == 0.5
