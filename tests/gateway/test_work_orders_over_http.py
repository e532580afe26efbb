"""Work orders over HTTP: made, shown, listed, taken, reported on, ended; and who may do which."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import httpx
import pytest
from gateway_rig import Register, calling, held, settings_for, until_ready
from recording import Recorder

from broker.gateway.serve import Running
from broker.store import outbox

BASE = "/api/v1/messaging"
NOWHERE = "0190a0b1-0000-7000-8000-000000000000"


class Cast:
    """Agents by name, each with a client of its own."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.clients: dict[str, httpx.AsyncClient] = {}

    def __getitem__(self, name: str) -> httpx.AsyncClient:
        return self.clients[name]


@asynccontextmanager
async def casting(gateway: Running, register: Register, **agents: dict[str, Any]) -> AsyncIterator[Cast]:
    """Register agents and open a client for each."""
    cast = Cast()
    async with AsyncExitStack() as stack:
        for name, more in agents.items():
            made = await register(name, **more)
            cast.ids[name] = made["id"]
            cast.clients[name] = await stack.enter_async_context(calling(gateway, made["api_key"]))
        yield cast


@pytest.fixture
async def cast(gateway: Running, register: Register, recorder: Recorder) -> AsyncIterator[Cast]:
    async with casting(
        gateway,
        register,
        boss={},
        worker={"capabilities": ["dig"]},
        other={"capabilities": ["dig"]},
        stranger={},
    ) as made:
        yield made


async def order(client: httpx.AsyncClient, **more: Any) -> Any:
    reply = await client.post(f"{BASE}/work-order", json={"title": "a hole", **more})
    assert reply.status_code == 201, reply.text
    return reply.json()


async def directed(cast: Cast, **more: Any) -> str:
    return str((await order(cast["boss"], to_agent_id="worker", **more))["work_order_id"])


async def opened(cast: Cast, **more: Any) -> str:
    return str((await order(cast["boss"], capabilities=["dig"], **more))["work_order_id"])


async def act(client: httpx.AsyncClient, order_id: str, what: str, **body: Any) -> httpx.Response:
    calls = {
        "respond": ("POST", f"{BASE}/work-order/{order_id}/respond"),
        "complete": ("POST", f"{BASE}/work-order/{order_id}/complete"),
        "progress": ("POST", f"{BASE}/work-order/{order_id}/progress"),
        "cancel": ("POST", f"{BASE}/work-order/{order_id}/cancel"),
    }
    return await client.request(*calls[what], json=body)


async def accept(client: httpx.AsyncClient, order_id: str) -> str:
    reply = await act(client, order_id, "respond", action="accept")
    assert reply.status_code == 200, reply.text
    return str(reply.json()["lease"])


async def shown(client: httpx.AsyncClient, order_id: str) -> Any:
    reply = await client.get(f"{BASE}/work-order/{order_id}")
    assert reply.status_code == 200, reply.text
    return reply.json()


def outcome(reply: httpx.Response) -> str:
    """Return the status of the order after a 200, else what was wrong."""
    return str(reply.json()["status"] if reply.status_code == 200 else reply.json()["error"]["code"])


async def messages(http: httpx.AsyncClient, agent: str, count: int) -> list[Any]:
    """Wait until an agent has got so many messages; return them, oldest first."""
    async with asyncio.timeout(10):
        while True:
            got = (await http.get("/api/messages", params={"to_agent_id": agent})).json()
            if len(got) >= count:
                return got
            await asyncio.sleep(0.02)


# --- ordering ---------------------------------------------------------------------------------------


async def test_an_order_is_there_and_in_the_workers_inbox_when_its_reply_comes(
    gateway: Running, http: httpx.AsyncClient, cast: Cast
) -> None:
    body = {
        "to_agent_id": "worker",
        "title": "a hole",
        "description": "two metres\ndeep",
        "requirements": {"depth_m": 2.0},
        "budget_usd": 15000,
        "deadline_at": "2099-01-01T02:00:00+02:00",
    }
    reply = await cast["boss"].post(f"{BASE}/work-order", json=body)
    assert reply.status_code == 201
    made = reply.json()
    order_id = made["work_order_id"]
    assert reply.headers["Location"] == f"{BASE}/work-order/{order_id}"
    assert (made["success"], made["status"], made["open"]) == (True, "pending", False)
    assert made["from_agent"] == {"id": cast.ids["boss"], "name": "boss"}
    assert made["to_agent"] == {"id": cast.ids["worker"], "name": "worker"}
    assert made["deadline_at"] == "2099-01-01T00:00:00Z"
    assert "lease" not in made
    (message,) = (await http.get(f"/api/messages?to_agent_id={cast.ids['worker']}")).json()
    assert (message["message_type"], message["from_agent_id"]) == ("work_order", cast.ids["boss"])
    assert message["conversation_id"] == order_id
    assert message["content"] == {
        "work_order_id": order_id,
        "title": "a hole",
        "description": "two metres\ndeep",
        "requirements": {"depth_m": 2.0},
        "budget_usd": 15000,
        "deadline_at": "2099-01-01T00:00:00Z",
        "capabilities": [],
        "status": "pending",
    }
    assert await outbox.depth(gateway.services.pool) == (0, 0.0)


async def test_an_operator_orders_for_whom_it_names_and_nobody_else(
    http: httpx.AsyncClient, cast: Cast
) -> None:
    reply = await http.post(f"{BASE}/work-order", json={"title": "t", "to_agent_id": "worker"})
    assert (reply.status_code, reply.json()["error"]["field"]) == (422, "from_agent_id")
    made = await http.post(
        f"{BASE}/work-order?from_agent_id=boss",
        json={"title": "t", "to_agent_id": cast.ids["worker"].upper()},
    )
    assert made.status_code == 201, made.text
    assert made.json()["from_agent"]["name"] == "boss"
    order_id = made.json()["work_order_id"]
    assert (await http.get(f"{BASE}/work-order/{order_id}")).status_code == 200
    assert (await act(http, order_id, "respond", action="accept")).json()["error"]["field"] == "agent_id"
    taken = await http.post(
        f"{BASE}/work-order/{order_id}/respond?agent_id=worker", json={"action": "accept"}
    )
    assert outcome(taken) == "accepted"


async def test_a_worker_that_is_nobody_or_oneself_is_refused(cast: Cast) -> None:
    for name, code in (("boss", "invalid"), ("nobody", "unknown_recipient")):
        reply = await cast["boss"].post(f"{BASE}/work-order", json={"title": "t", "to_agent_id": name})
        assert (reply.status_code, outcome(reply)) == (422, code)
        assert reply.json()["error"]["field"] == "to_agent_id"
    past = {"title": "t", "to_agent_id": "worker", "deadline_at": "2001-01-01T00:00:00Z"}
    reply = await cast["boss"].post(f"{BASE}/work-order", json=past)
    assert (reply.status_code, reply.json()["error"]["field"]) == (422, "deadline_at")


AMOUNTS = {
    "15000": "15000",
    "15000.00": "15000",
    "1.5e4": "15000",
    '"12.50"': "12.5",
    "0.1": "0.1",
    "0.30000000000000000": "0.3",
    "99999999999999.999999": "99999999999999.999999",
    "0.000001": "0.000001",
    "-0.0": "0",
    "0e10": "0",
    "null": "null",
}


async def test_an_amount_is_exact_all_the_way(http: httpx.AsyncClient, cast: Cast) -> None:
    for written, read in AMOUNTS.items():
        body = f'{{"title": "t", "to_agent_id": "worker", "budget_usd": {written}}}'
        reply = await cast["boss"].post(f"{BASE}/work-order", content=body)
        assert reply.status_code == 201, reply.text
        again = await cast["boss"].get(f"{BASE}/work-order/{reply.json()['work_order_id']}")
        listed = await cast["worker"].get(f"{BASE}/work-orders?limit=1")
        message = await http.get("/api/messages", params={"conversation_id": reply.json()["work_order_id"]})
        for text in (reply.text, again.text, listed.text):
            assert f'"budget_usd":{read},' in text
        assert re.search(f'"budget_usd": ?{re.escape(read)},', message.text)


async def test_an_agent_that_takes_no_orders_gets_none(
    gateway: Running, register: Register, cast: Cast
) -> None:
    await register("closed", accepts_work_orders=False, capabilities=["dig"])
    await register("off", status="disabled", capabilities=["dig"])
    for name in ("closed", "off"):
        reply = await cast["boss"].post(f"{BASE}/work-order", json={"title": "t", "to_agent_id": name})
        assert (reply.status_code, outcome(reply)) == (409, "not_accepting")
    assert (await order(cast["boss"], capabilities=["dig"]))["offered_to"] == 2


async def test_an_order_sent_again_under_its_idempotency_key_is_made_once(
    http: httpx.AsyncClient, cast: Cast
) -> None:
    body = {"title": "once", "to_agent_id": "worker"}
    replies = [
        await cast["boss"].post(f"{BASE}/work-order", json=body, headers={"Idempotency-Key": "k"})
        for _ in range(2)
    ]
    assert [reply.status_code for reply in replies] == [201, 201]
    assert replies[0].json() == replies[1].json()
    assert (await cast["boss"].get(f"{BASE}/work-orders?role=requester")).json()["total"] == 1


# --- the table: every action, by every actor, in every state -------------------------------------------

ACTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "accept": ("respond", {"action": "accept"}),
    "reject": ("respond", {"action": "reject", "rejection_reason": "no"}),
    "progress": ("progress", {"percent": 10}),
    "complete": ("complete", {"result": {"n": 1}}),
    "fail": ("complete", {"failed": True, "reason": "broke"}),
    "cancel": ("cancel", {"reason": "changed my mind"}),
}
WORKERS = ("accept", "reject", "progress", "complete", "fail")
STATES = ("pending", "accepted", "completed", "failed", "rejected", "cancelled")


def expected(state: str, actor: str, action: str) -> str:
    if actor == "stranger":
        return "not_found"
    if (actor == "worker") != (action in WORKERS):
        return "agent_mismatch"
    if state == "pending":
        by_action = {"accept": "accepted", "reject": "rejected", "cancel": "cancelled"}
        return by_action.get(action, "illegal_transition")
    if state == "accepted":
        by_action = {"progress": "accepted", "complete": "completed", "fail": "failed", "cancel": "cancelled"}
        return by_action.get(action, "illegal_transition")
    return "illegal_transition"


async def brought_to(cast: Cast, state: str) -> str:
    order_id = await directed(cast)
    worker, boss = cast["worker"], cast["boss"]
    if state in ("accepted", "completed", "failed"):
        await accept(worker, order_id)
    by_state = {"completed": "complete", "failed": "fail", "rejected": "reject", "cancelled": "cancel"}
    if action := by_state.get(state):
        what, body = ACTIONS[action]
        reply = await act(boss if action == "cancel" else worker, order_id, what, **body)
        assert outcome(reply) == state
    return order_id


async def test_every_action_by_every_actor_in_every_state(cast: Cast) -> None:
    found, wanted = {}, {}
    for state in STATES:
        order_id, fresh = "", False
        for actor, action in product(("boss", "worker", "stranger"), ACTIONS):
            what, body = ACTIONS[action]
            order_id = order_id if fresh else await brought_to(cast, state)
            before = await shown(cast["boss"], order_id)
            reply = await act(cast[actor], order_id, what, **body)
            found[state, actor, action] = outcome(reply)
            wanted[state, actor, action] = expected(state, actor, action)
            after = await shown(cast["boss"], order_id)
            fresh = reply.status_code != 200
            if fresh:
                assert after == before
            else:
                assert after["history"][:-1] == before["history"]
                assert (after["history"][-1]["from"], after["history"][-1]["to"]) == (state, after["status"])
    assert found == wanted


async def test_a_stranger_finds_no_order_at_all(cast: Cast) -> None:
    order_id = await directed(cast)
    for path in (order_id, NOWHERE, "junk", "%00"):
        reply = await cast["stranger"].get(f"{BASE}/work-order/{path}")
        assert (reply.status_code, outcome(reply)) == (404, "not_found")
        assert outcome(await act(cast["stranger"], path, "cancel")) == "not_found"
    reply = await cast["stranger"].get(f"{BASE}/work-order/{order_id}?agent_id=boss")
    assert (reply.status_code, outcome(reply)) == (403, "agent_mismatch")


# --- what is told and shown ----------------------------------------------------------------------------


async def test_a_whole_life_is_told_to_both_sides_and_kept_in_order(
    http: httpx.AsyncClient, cast: Cast
) -> None:
    order_id = await directed(cast)
    when = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    reply = await act(cast["worker"], order_id, "respond", action="accept", estimated_completion=when)
    taken = reply.json()
    assert taken["lease"].startswith("1.")
    assert datetime.fromisoformat(taken["estimated_completion"]) == datetime.fromisoformat(when)
    assert taken["lease_until"] is not None
    await act(cast["worker"], order_id, "progress", lease=taken["lease"], note="halfway", percent=50)
    done = await act(cast["worker"], order_id, "complete", lease=taken["lease"], result={"depth": 2})
    assert (done.json()["result"], done.json()["percent"]) == ({"depth": 2}, 50)
    assert (await act(cast["boss"], order_id, "cancel")).status_code == 409

    told = await messages(http, "boss", 3)
    assert [one["content"]["action"] for one in told] == ["accept", "progress", "complete"]
    assert [one["content"]["status"] for one in told] == ["accepted", "accepted", "completed"]
    assert all(one["message_type"] == "work_order_update" for one in told)
    assert all(one["conversation_id"] == order_id and one["metadata"] == {"automatic": True} for one in told)
    assert told[1]["content"]["note"] == "halfway"
    assert told[2]["content"]["result"] == {"depth": 2}
    whole = await shown(cast["boss"], order_id)
    assert [event["action"] for event in whole["history"]] == ["create", "accept", "progress", "complete"]
    assert [event["seq"] for event in whole["history"]] == [1, 2, 3, 4]
    assert [event["by"] for event in whole["history"]] == ["requester", "worker", "worker", "worker"]
    assert whole["history"][1]["actor"] == {"id": cast.ids["worker"], "name": "worker"}
    assert whole["history"][2]["detail"]["note"] == "halfway"
    assert taken["lease"] not in str(whole)


async def test_the_worker_hears_of_a_cancellation_and_the_requester_of_a_rejection(
    http: httpx.AsyncClient, cast: Cast
) -> None:
    first, second = await directed(cast), await directed(cast)
    await act(cast["boss"], first, "cancel", reason="no money")
    rejected = await act(cast["worker"], second, "respond", action="reject", rejection_reason="no time")
    assert rejected.json()["status_reason"] == "no time"
    told = [m for m in await messages(http, "worker", 3) if m["message_type"] == "work_order_update"]
    assert [(m["content"]["status"], m["content"]["reason"], m["content"]["by"]) for m in told] == [
        ("cancelled", "no money", "requester")
    ]
    (heard,) = await messages(http, "boss", 1)
    assert (heard["content"]["status"], heard["content"]["reason"]) == ("rejected", "no time")


async def test_lists_show_each_side_its_own_in_pages_that_stay_put(cast: Cast) -> None:
    ids = [await directed(cast, title=f"t{n}") for n in range(5)]
    await accept(cast["worker"], ids[0])
    await act(cast["worker"], ids[1], "respond", action="reject")
    found: list[str] = []
    cursor = ""
    while True:
        page = (await cast["worker"].get(f"{BASE}/work-orders?limit=2&cursor={cursor}")).json()
        assert (page["agent_id"], page["role"]) == (cast.ids["worker"], "worker")
        found += [one["work_order_id"] for one in page["work_orders"]]
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
        await directed(cast, title="comes meanwhile")
    assert found == ids[::-1]
    mine = (await cast["boss"].get(f"{BASE}/work-orders?role=requester&status=pending")).json()
    assert mine["total"] == len(mine["work_orders"]) == 5
    assert {one["status"] for one in mine["work_orders"]} == {"pending"}
    assert (await cast["other"].get(f"{BASE}/work-orders?role=requester")).json()["total"] == 0
    assert (await cast["other"].get(f"{BASE}/work-orders")).json()["work_orders"] == []


async def test_a_bad_list_names_its_parameter(cast: Cast) -> None:
    for query in ("role=both", "status=odd", "limit=0", "cursor=junk"):
        reply = await cast["boss"].get(f"{BASE}/work-orders?{query}")
        assert (reply.status_code, reply.json()["error"]["field"]) == (422, query.partition("=")[0])


# --- open orders ---------------------------------------------------------------------------------------


async def test_an_open_order_is_offered_to_who_can_and_the_first_takes_it(
    http: httpx.AsyncClient, cast: Cast
) -> None:
    made = await order(cast["boss"], capabilities=["dig"])
    order_id = made["work_order_id"]
    assert (made["offered_to"], made["to_agent"], made["open"]) == (2, None, True)
    for name in ("worker", "other"):
        (offer,) = await messages(http, name, 1)
        assert (offer["message_type"], offer["content"]["capabilities"]) == ("work_order", ["dig"])
        listed = (await cast[name].get(f"{BASE}/work-orders")).json()
        assert [one["work_order_id"] for one in listed["work_orders"]] == [order_id]
        assert listed["total"] == 1
        assert (await shown(cast[name], order_id))["status"] == "pending"
    assert (await cast["stranger"].get(f"{BASE}/work-order/{order_id}")).status_code == 404
    assert outcome(await act(cast["stranger"], order_id, "respond", action="accept")) == "not_found"
    await accept(cast["other"], order_id)
    assert outcome(await act(cast["worker"], order_id, "respond", action="accept")) == "illegal_transition"
    assert (await cast["worker"].get(f"{BASE}/work-orders")).json()["total"] == 0
    assert (await cast["worker"].get(f"{BASE}/work-order/{order_id}")).status_code == 404
    gone = (await messages(http, "worker", 2))[-1]
    assert (gone["message_type"], gone["content"]["status"]) == ("work_order_update", "accepted")
    (taken,) = await messages(http, "boss", 1)
    assert taken["from_agent_id"] == cast.ids["other"]
    assert (await shown(cast["boss"], order_id))["to_agent"]["name"] == "other"


async def test_declining_an_open_order_leaves_it_to_the_others(http: httpx.AsyncClient, cast: Cast) -> None:
    order_id = await opened(cast)
    declined = await act(cast["worker"], order_id, "respond", action="reject", rejection_reason="busy")
    assert outcome(declined) == "pending"
    assert outcome(await act(cast["worker"], order_id, "respond", action="accept")) == "illegal_transition"
    assert (await cast["worker"].get(f"{BASE}/work-orders")).json()["total"] == 0
    assert outcome(await act(cast["other"], order_id, "respond", action="reject")) == "pending"
    history = (await shown(cast["boss"], order_id))["history"]
    assert [event["action"] for event in history] == ["create", "offer", "decline", "decline"]


async def test_offered_agents_hear_that_an_open_order_was_called_off(
    http: httpx.AsyncClient, cast: Cast
) -> None:
    order_id = await opened(cast)
    assert outcome(await act(cast["boss"], order_id, "cancel", reason="private")) == "cancelled"
    for name in ("worker", "other"):
        update = (await messages(http, name, 2))[-1]
        assert (update["content"]["status"], "reason" in update["content"]) == ("cancelled", False)


async def test_an_open_order_reaches_nobody_who_did_not_ask_for_such(
    http: httpx.AsyncClient, cast: Cast, register: Register
) -> None:
    for name, more in {
        "paused": {"status": "paused"},
        "unwilling": {"accepts_work_orders": False},
        "deaf": {"accepts": ["task"]},
        "picky": {"allow_from": [cast.ids["other"]]},
        "guarded": {"contact_policy": "contacts_only"},
        "half": {"capabilities": ["dig"]},
    }.items():
        await register(name, **({"capabilities": ["dig", "fill"]} | more))
    await register("whole", capabilities=["fill", "dig", "more"])
    made = await order(cast["boss"], capabilities=["dig", "fill"])
    assert made["offered_to"] == 1
    assert [m["content"]["work_order_id"] for m in await messages(http, "whole", 1)] == [
        made["work_order_id"]
    ]


async def contend(client: httpx.AsyncClient, order_id: str) -> httpx.Response:
    """Accept beside others. Who has waited for them for too long, on a slow machine, is told to come back."""
    while True:
        reply = await act(client, order_id, "respond", action="accept")
        if outcome(reply) != "store_unavailable":
            return reply


# --- capacity ------------------------------------------------------------------------------------------


async def test_an_agent_at_capacity_accepts_no_more_however_many_at_once(
    gateway: Running, register: Register, cast: Cast
) -> None:
    async with casting(gateway, register, small={"max_concurrent_jobs": 3}) as more:
        ids = [
            str((await order(cast["boss"], to_agent_id="small", title=f"t{n}"))["work_order_id"])
            for n in range(10)
        ]
        replies = await asyncio.gather(*(contend(more["small"], order_id) for order_id in ids))
        assert sorted(map(outcome, replies)) == ["accepted"] * 3 + ["at_capacity"] * 7
        taken = next(reply for reply in replies if reply.status_code == 200).json()
        assert outcome(await act(more["small"], taken["work_order_id"], "complete")) == "completed"
        left = next(one for one, reply in zip(ids, replies, strict=True) if reply.status_code == 409)
        assert outcome(await act(more["small"], left, "respond", action="accept")) == "accepted"


# --- leases --------------------------------------------------------------------------------------------


@pytest.fixture
async def diggers(gateway: Running, register: Register, recorder: Recorder) -> AsyncIterator[Cast]:
    able = {"capabilities": ["dig"]}
    async with casting(gateway, register, boss={}, worker=able, other=able) as made:
        yield made


async def lapse(gateway: Running, order_id: str) -> None:
    """Let the lease of an order be over; no other ends before its time, however slow the machine is."""
    over = "UPDATE work_orders SET lease_until = now() - interval '1 second' WHERE id = $1"
    await gateway.services.pool.execute(over, order_id)


async def test_a_lapsed_lease_may_be_taken_over_and_the_old_token_changes_nothing(
    gateway: Running, http: httpx.AsyncClient, diggers: Cast
) -> None:
    order_id = await opened(diggers)
    old = await accept(diggers["worker"], order_id)
    await lapse(gateway, order_id)
    new = await accept(diggers["other"], order_id)
    assert (old.split(".")[0], new.split(".")[0]) == ("1", "2")
    before = await shown(diggers["boss"], order_id)
    for what, body in (("progress", {"percent": 99}), ("complete", {"result": {"late": True}})):
        for lease in ({"lease": old}, {}):
            assert outcome(await act(diggers["worker"], order_id, what, **body, **lease)) == "lease_lost"
    assert outcome(await act(diggers["other"], order_id, "complete", lease=old)) == "lease_lost"
    assert outcome(await act(diggers["other"], order_id, "complete")) == "lease_lost"
    after = await shown(diggers["boss"], order_id)
    refused = after["history"][len(before["history"]) :]
    assert [(event["action"], event["from"], event["to"]) for event in refused] == [
        ("refused", "accepted", "accepted")
    ] * 6
    assert refused[2]["detail"] == {"action": "complete", "reason": "lease_lost", "lease_number": 1}
    assert (after["result"], after["percent"], after["to_agent"]["name"]) == (None, None, "other")
    assert outcome(await act(diggers["other"], order_id, "complete", lease=new)) == "completed"
    assert outcome(await act(diggers["worker"], order_id, "complete", lease=old)) == "lease_lost"
    lost = (await messages(http, "worker", 2))[-1]
    assert (lost["content"]["action"], lost["content"]["status"]) == ("accept", "accepted")


async def test_a_worker_may_still_report_after_its_lease_as_long_as_nobody_took_over(
    gateway: Running, diggers: Cast
) -> None:
    order_id = await directed(diggers)
    token = await accept(diggers["worker"], order_id)
    await lapse(gateway, order_id)
    renewed = await act(diggers["worker"], order_id, "progress", lease=token)
    assert outcome(renewed) == "accepted"
    assert outcome(await act(diggers["worker"], order_id, "respond", action="accept")) == "illegal_transition"
    await lapse(gateway, order_id)
    assert outcome(await act(diggers["worker"], order_id, "complete")) == "completed"


async def test_a_directed_order_is_accepted_again_by_its_worker_after_a_restart(
    gateway: Running, diggers: Cast
) -> None:
    order_id = await directed(diggers)
    old = await accept(diggers["worker"], order_id)
    await lapse(gateway, order_id)
    assert outcome(await act(diggers["other"], order_id, "respond", action="accept")) == "not_found"
    new = await accept(diggers["worker"], order_id)
    assert outcome(await act(diggers["worker"], order_id, "complete", lease=old)) == "lease_lost"
    assert outcome(await act(diggers["worker"], order_id, "complete", lease=new)) == "completed"


# --- races ---------------------------------------------------------------------------------------------


async def test_of_fifty_agents_that_accept_at_once_exactly_one_gets_it(
    streams_url: str,
    database_url: str,
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    recorder: Recorder,
) -> None:
    await register("boss")
    agents = [await register(f"digger {n}", capabilities=["dig"]) for n in range(50)]
    async with held(settings_for(streams_url, database_url)) as second, AsyncExitStack() as stack:
        await until_ready(second)
        made = await http.post(
            f"{BASE}/work-order?from_agent_id=boss", json={"title": "t", "capabilities": ["dig"]}
        )
        assert made.json()["offered_to"] == 50
        order_id = made.json()["work_order_id"]
        clients = [
            await stack.enter_async_context(calling((gateway, second)[n % 2], agent["api_key"]))
            for n, agent in enumerate(agents)
        ]
        go = asyncio.Event()

        async def race(client: httpx.AsyncClient) -> httpx.Response:
            await go.wait()
            return await contend(client, order_id)

        racing = [asyncio.create_task(race(client)) for client in clients]
        go.set()
        replies = await asyncio.gather(*racing)
    assert sorted(reply.status_code for reply in replies) == [200] + [409] * 49
    (winner,) = [n for n, reply in enumerate(replies) if reply.status_code == 200]
    whole = (await http.get(f"{BASE}/work-order/{order_id}")).json()
    assert whole["to_agent"]["id"] == agents[winner]["id"]
    assert [event["action"] for event in whole["history"]] == ["create", "offer", "accept"]
    for n, agent in enumerate(agents):
        got = await messages(http, agent["id"], 1 if n == winner else 2)
        assert [m["message_type"] for m in got] == ["work_order"] + ["work_order_update"] * (n != winner)
