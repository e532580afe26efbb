"""The shapes that clients of the first day know, call by call: fields, statuses, and what they send.

The lists are theirs, not ours: a field may be added to a reply, none of these may ever go or change its kind.
"""

from typing import Any, NamedTuple

import httpx
import pytest
from gateway_rig import Register
from recording import Recorder

BASE = "/api/v1/messaging"

AGENT = "id name type endpoint capabilities status heartbeat_at created_at updated_at max_concurrent_jobs"
MESSAGE = (
    "id from_agent_id to_agent_id conversation_id message_type priority content metadata status retry_count "
    "expires_at created_at delivered_at processed_at result status_reason"
)
PRESENCE = (
    "agent_id is_online last_heartbeat_at status_message accepts_work_orders max_concurrent_jobs active_jobs"
)
ORDER = (
    "work_order_id from_agent to_agent title description requirements budget_usd deadline_at status "
    "created_at"
)


class Shape(NamedTuple):
    """A call as a client makes it, the status it expects, and the fields it reads (`.` leads into a part,
    `[]` into every row of one)."""

    method: str
    path: str
    status: int
    fields: str
    body: Any = None


SHAPES = {
    "register": Shape(
        "POST",
        "/api/agents",
        201,
        AGENT + " api_key signing_secret",
        {
            "name": "scraper_honda",
            "type": "scraper",
            "endpoint": None,
            "capabilities": ["scrape", "honda"],
            "status": "active",
            "max_concurrent_jobs": 10,
            "signing_secret": None,
        },
    ),
    "show agent": Shape("GET", "/api/agents/worker", 200, AGENT),
    "change agent": Shape("PATCH", "/api/agents/worker", 200, AGENT, {"type": "claude"}),
    "delete agent": Shape("DELETE", "/api/agents/leaver", 202, ""),
    "list agents": Shape("GET", "/api/agents?status=active&capability=dig&limit=100", 200, f"[] {AGENT}"),
    "heartbeat": Shape("POST", "/api/agents/worker/heartbeat", 200, "agent_id heartbeat_at is_online"),
    "send": Shape(
        "POST",
        "/api/messages",
        201,
        MESSAGE,
        {
            "to_agent_id": "worker",
            "conversation_id": "cars",
            "message_type": "task",
            "priority": 3,
            "content": {"task_type": "scrape", "requirements": ["dig"], "deadline": "2027-01-01T00:00:00"},
            "metadata": {"retry_policy": "exponential_backoff", "max_retries": 3, "timeout": 300},
            "expires_at": "2027-01-01T00:00:00",
        },
    ),
    "send accepted": Shape("POST", "/api/messages?wait=accepted", 202, MESSAGE, {"to_agent_id": "worker"}),
    "send batch": Shape(
        "POST", "/api/messages/batch", 200, "results results[].id", [{"to_agent_id": "worker"}]
    ),
    "list messages": Shape("GET", "/api/messages?to_agent_id=worker&status=pending", 200, f"[] {MESSAGE}"),
    "show message": Shape("GET", "/api/messages/{message}", 200, MESSAGE),
    "attempts": Shape("GET", "/api/messages/{message}/attempts", 200, "[]"),
    "route": Shape("GET", "/api/messages/{message}/route", 200, "message_id to_agent_id route"),
    "status": Shape(
        "PUT", "/api/messages/{message}/status", 200, MESSAGE, {"status": "processed", "result": {"n": 1}}
    ),
    "dead letters": Shape("GET", "/api/dead-letters?agent_id=worker", 200, "[]"),
    "replay": Shape("POST", "/api/dead-letters/replay", 200, "", {"agent_id": "worker"}),
    "ping": Shape(
        "POST",
        f"{BASE}/ping?from_agent_id=boss",
        200,
        "success message_id target_agent.id target_agent.name target_agent.is_online "
        "target_agent.status_message target_agent.accepts_work_orders",
        {"to_agent_id": "worker", "message": "there?"},
    ),
    "contact request": Shape(
        "POST",
        f"{BASE}/send?from_agent_id=boss",
        201,
        "success message_id",
        {"to_agent_id": "worker", "subject": "hello", "body": "there", "priority": 5},
    ),
    "inbox": Shape(
        "GET",
        f"{BASE}/inbox?agent_id=worker&status=pending&limit=10",
        200,
        "agent_id total_messages next_cursor messages[].message_id messages[].from_agent.id "
        "messages[].from_agent.name messages[].type messages[].subject messages[].body messages[].priority "
        "messages[].content messages[].created_at",
    ),
    "mark read": Shape(
        "POST", f"{BASE}/mark-read/{{unread}}?agent_id=worker", 200, "success message_id read_at"
    ),
    "presence heartbeat": Shape("POST", f"{BASE}/heartbeat?agent_id=worker", 200, "agent_id"),
    "set presence": Shape(
        "PUT",
        f"{BASE}/presence?agent_id=worker",
        200,
        PRESENCE,
        {"status_message": "digging", "accepts_work_orders": True, "max_concurrent_jobs": 3},
    ),
    "presence": Shape("GET", f"{BASE}/presence/worker", 200, PRESENCE),
    "work order": Shape(
        "POST",
        f"{BASE}/work-order?from_agent_id=boss",
        201,
        "success work_order_id status",
        {
            "to_agent_id": "worker",
            "title": "a hole",
            "description": "deep",
            "requirements": {"depth": 3},
            "budget_usd": 15000,
            "deadline_at": "2027-01-01T00:00:00Z",
        },
    ),
    "work orders": Shape(
        "GET",
        f"{BASE}/work-orders?agent_id=worker&role=worker",
        200,
        "agent_id role total " + " ".join(f"work_orders[].{name}" for name in ORDER.split()),
    ),
    "show work order": Shape("GET", f"{BASE}/work-order/{{order}}?agent_id=worker", 200, ORDER + " history"),
    "accept": Shape(
        "POST",
        f"{BASE}/work-order/{{order}}/respond?agent_id=worker",
        200,
        ORDER + " lease",
        {"action": "accept", "estimated_completion": "2026-12-31T00:00:00"},
    ),
    "reject": Shape(
        "POST",
        f"{BASE}/work-order/{{rejected}}/respond?agent_id=worker",
        200,
        ORDER,
        {"action": "reject", "rejection_reason": "too deep"},
    ),
    "cancel": Shape(
        "POST", f"{BASE}/work-order/{{cancelled}}/cancel?agent_id=boss", 200, ORDER, {"reason": "no need"}
    ),
    "progress": Shape(
        "POST",
        f"{BASE}/work-order/{{taken}}/progress?agent_id=worker",
        200,
        "",
        {"lease": "{lease}", "note": "half", "percent": 50},
    ),
    "complete": Shape(
        "POST",
        f"{BASE}/work-order/{{taken}}/complete?agent_id=worker",
        200,
        ORDER,
        {"result": {"holes": 1}, "lease": "{lease}"},
    ),
    "stats of an agent": Shape("GET", f"{BASE}/stats?agent_id=worker", 200, ""),
    "stats": Shape("GET", f"{BASE}/stats", 200, ""),
    "health": Shape("GET", "/healthz", 200, ""),
    "ready": Shape("GET", "/readyz", 200, ""),
}


@pytest.fixture
async def slots(http: httpx.AsyncClient, register: Register, recorder: Recorder) -> dict[str, str]:
    """What the calls are about."""
    for name in ("boss", "worker", "leaver"):
        await register(name, capabilities=["dig"])

    async def made(path: str, body: Any) -> Any:
        reply = await http.post(path, json=body)
        assert reply.is_success, reply.text
        return reply.json()

    sent = [await made("/api/messages", {"from_agent_id": "boss", "to_agent_id": "worker"}) for _ in range(2)]
    order = {"to_agent_id": "worker", "title": "a hole"}
    orders = [(await made(f"{BASE}/work-order?from_agent_id=boss", order))["work_order_id"] for _ in range(4)]
    accepted = await made(f"{BASE}/work-order/{orders[1]}/respond?agent_id=worker", {"action": "accept"})
    return {
        "message": sent[0]["id"],
        "unread": sent[1]["id"],
        "order": orders[0],
        "taken": orders[1],
        "rejected": orders[2],
        "cancelled": orders[3],
        "lease": accepted["lease"],
    }


async def test_a_client_of_the_first_day_finds_what_it_reads(
    http: httpx.AsyncClient, slots: dict[str, str]
) -> None:
    for call, shape in SHAPES.items():
        body = shape.body
        if isinstance(body, dict) and body.get("lease"):
            body = {**body, "lease": slots["lease"]}
        reply = await http.request(shape.method, shape.path.format(**slots), json=body)
        assert reply.status_code == shape.status, (call, reply.text)
        missing = [path for path in shape.fields.split() if not _holds(reply.json(), path)]
        assert missing == [], call


def _holds(value: Any, path: str) -> bool:
    """Tell whether a reply holds a field, in every row where the path leads through rows."""
    if isinstance(value, list):
        return path == "[]" or (len(value) > 0 and all(_holds(one, path) for one in value))
    first, _, rest = path.partition(".")
    name = first.removesuffix("[]")
    if path == "[]" or not isinstance(value, dict) or name not in value:
        return False
    if not rest:
        return True
    rows = value[name] if first.endswith("[]") else [value[name]]
    return len(rows) > 0 and all(row is None or _holds(row, rest) for row in rows)


async def test_a_decimal_stays_the_number_it_was(http: httpx.AsyncClient, slots: dict[str, str]) -> None:
    for given, shown in (
        ("15000", "15000"),
        ("0.1", "0.1"),
        ("12345678901234.123456", "12345678901234.123456"),
    ):
        raw = f'{{"to_agent_id": "worker", "title": "a hole", "budget_usd": {given}}}'
        made = await http.post(f"{BASE}/work-order?from_agent_id=boss", content=raw)
        assert f'"budget_usd":{shown},' in made.text


async def test_lists_lead_to_their_next_page_in_their_headers(
    http: httpx.AsyncClient, slots: dict[str, str]
) -> None:
    for path in ("/api/agents?limit=1", "/api/messages?to_agent_id=worker&limit=1"):
        first = await http.get(path)
        cursor = first.headers["X-Next-Cursor"]
        following = first.links["next"]["url"]
        assert cursor in following
        second = await http.get(following)
        assert second.json()[0]["id"] != first.json()[0]["id"]
