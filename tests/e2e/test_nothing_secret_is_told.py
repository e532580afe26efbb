"""One broker, every kind of secret put into every place one can be put, and all that the broker then says
searched for them: its output, its servers' logs, its metrics, and the replies to strangers."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from chaos.canary import Canaries
from whole_broker import SHORT, WholeBroker, free_port

from broker.servers.running import Running
from broker.streams.keys import Keys
from schema.message import Lane

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

KEPT = ("operator-key", "key-pepper", "secrets-key", "valkey/password", "postgres/password")
"""Files of the data directory with a secret in them."""

ENDED_S = 120.0
"""A worker that was killed starts anew meanwhile, and so does Postgres: seconds, or a minute under load."""


@contextmanager
def echoing(canary: str) -> Iterator[str]:
    """Serve endpoints that answer with the status in their path, and with the canary in body and headers."""

    class Echo(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status = int(self.path.strip("/").split("?")[0] or 200)
            self.send_response(status, canary)
            body = json.dumps({"error": canary}).encode()
            for name, value in {
                "Content-Length": str(len(body)),
                "Retry-After": canary,
                "X-C": canary,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def client_of(place: Running, key: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=place.api_url, headers=headers, timeout=30, trust_env=False
    ) as http:
        yield http


async def use_properly(
    http: httpx.AsyncClient, canaries: Canaries, hooks: str
) -> tuple[list[Any], list[str]]:
    """Register agents with endpoints that say canaries, rotate what can be rotated, send; return agents and
    the ids of the messages."""
    token = canaries.make("query of an endpoint")
    agents = []
    for number, status in enumerate((200, 400, 410, 429, 500)):
        body = {"name": f"agent-{number}", "endpoint": f"{hooks}/{status}?token={token}"}
        reply = await http.post("/api/agents", json=body)
        assert reply.status_code == 201, reply.text
        agents.append(agent := reply.json())
        canaries.note(f"key of agent {number}", agent["api_key"])
        canaries.note(f"secret of agent {number}", agent["signing_secret"])
    rotated = await http.post("/api/agents/agent-0/signing-secret/rotate")
    canaries.note("rotated secret", rotated.json()["signing_secret"])
    added = await http.post("/api/agents/agent-1/keys", json={})
    canaries.note("added key", added.json()["api_key"])
    content = {"deep": [{"text": canaries.make("body")}], canaries.make("name of a field"): 1}
    key, ids = canaries.make("idempotency key"), []
    for agent in agents:
        message = {"to_agent_id": agent["id"], "content": content, "metadata": {"max_retries": 2}}
        sent = await http.post("/api/messages", json=message, headers={"Idempotency-Key": key + agent["id"]})
        assert sent.status_code == 201, sent.text
        ids.append(sent.json()["id"])
    return agents, ids


async def abuse(http: httpx.AsyncClient, canaries: Canaries, agent: Any) -> list[httpx.Response]:
    """Send what is refused in every way there is; return the replies."""
    bad = canaries.make("what is refused")
    wrong = canaries.make("wrong key")
    stranger = {"Authorization": f"Bearer abk_0123456789abcdef_{wrong}0_00000000"}
    replies = [
        await http.post("/api/messages", content=f'{{"content": "{bad}'.encode()),
        await http.post("/api/messages", json={"to_agent_id": agent["id"], "content": bad}),
        await http.post("/api/messages", json={"to_agent_id": agent["id"], "content": {"x": bad + "\u0000"}}),
        await http.post("/api/messages", json={"to_agent_id": agent["id"], "priority": bad, "content": {}}),
        await http.post("/api/messages", json={"to_agent_id": agent["id"], "content": {"x": bad * 10_000}}),
        await http.post("/api/agents", json={"name": "x", "endpoint": f"http://u:{bad}@a.example/?{bad}"}),
        await http.post("/api/agents", json={"name": "y", "endpoint": f"http://127.0.0.1:22/{bad}?{bad}"}),
        await http.post("/api/agents", json={"name": "z", "signing_secret": f"whsec_{bad}!"}),
        await http.patch(f"/api/agents/{agent['id']}", json={"signing_secret": bad}),
        await http.get("/api/messages", params={"cursor": bad, "status": bad, "access_token": bad}),
        await http.get("/api/agents", headers=stranger),
        await http.get("/api/agents", headers={"Authorization": f"Basic {bad}"}),
        await http.get("/api/agents", headers={"Authorization": f"Bearer {bad}"}),
        await http.get("/api/agents", headers={"X-Request-Id": f"{bad} {bad}"}),
        await http.post("/api/messages", json={"content": {}}, headers={"Idempotency-Key": bad * 20}),
        await http.get(f"/api/inbox/nobody?token={bad}"),
    ]
    assert all(400 <= reply.status_code < 500 for reply in replies if reply.request.method != "GET"), replies
    return replies


def poison(place: Running, canaries: Canaries, agent: Any) -> None:
    """Publish natively what no edge has looked at."""
    canary = canaries.make("poison")
    with redis.Redis.from_url(place.redis_url) as client:
        for shard in range(2):
            for raw in (
                canary,
                f'{{"id": "{canary}"}}',
                f'{{"id":"{agent["id"]}","to_agent_id":"{agent["id"]}","content":{{"x":"{canary}\\u0000"}},'
                '"metadata":{},"priority":5,"created_at":"2026-01-01T00:00:00Z"}',
                f'{{"id":"{agent["id"]}","to_agent_id":"{canary}","content":{{}},"created_at":"{canary}"}}',
            ):
                client.xadd(Keys(shard).ingress[Lane.NORMAL], {"m": raw})
        client.connection_pool.disconnect()


async def until_ended(http: httpx.AsyncClient, messages: list[str], broker: WholeBroker) -> None:
    """Wait until these messages have ended; Postgres may be away meanwhile."""
    deadline, seen = time.monotonic() + ENDED_S, ""
    for message_id in messages:
        while True:
            try:
                reply = await http.get(f"/api/messages/{message_id}")
            except httpx.TransportError as error:
                seen = repr(error)
            else:
                if reply.is_success and reply.json()["status"] != "pending":
                    break
                seen = f"{reply.status_code} {reply.text}"
            assert time.monotonic() < deadline, f"not ended: {seen}\n{broker.log_tail()}"
            await asyncio.sleep(0.1)


async def test_nothing_secret_or_personal_is_ever_told(tmp_path: Path) -> None:
    canaries = Canaries()
    broker = WholeBroker(tmp_path, port=free_port(), **SHORT)
    told: list[str] = []
    try:
        place = await asyncio.to_thread(broker.start)
        for name in KEPT:
            path = broker.data_dir / name
            assert path.stat().st_mode & 0o077 == 0, name
            canaries.note(name, path.read_text().strip())
        with echoing(canaries.make("answer of an endpoint")) as hooks:
            async with client_of(place, place.api_key) as http:
                agents, ids = await use_properly(http, canaries, hooks)
                refused = await abuse(http, canaries, agents[0])
                told += [reply.text for reply in refused if reply.is_error]
                poison(place, canaries, agents[0])
                await until_ended(http, ids, broker)
                # Crashes, and stores that go away in the middle of everything.
                await asyncio.to_thread(broker.signal, "worker", signal.SIGABRT)
                await asyncio.to_thread(broker.kill_store, "postgres")
                body = {"to_agent_id": agents[0]["id"], "content": {"x": canaries.make("during an outage")}}
                sent = await http.post("/api/messages?wait=accepted", json=body)
                await until_ended(http, [sent.json()["id"]], broker)
            async with httpx.AsyncClient(trust_env=False, timeout=30) as scraper:
                told.append((await scraper.get(place.metrics_url)).text)
    finally:
        await asyncio.to_thread(broker.stop)
    for text in told:
        canaries.search("replies and metrics", text.encode())
    canaries.search("output", broker.log.encode())
    logs = {str(path): path for path in broker.data_dir.rglob("*") if path.suffix == ".log"}
    canaries.search_files(logs)
    assert len(logs) >= 2
    assert "child.ended" in broker.log  # what was searched is what was told
    assert canaries.hits == {}, broker.log_tail()
    assert_the_search_finds(canaries, broker)


def assert_the_search_finds(canaries: Canaries, broker: WholeBroker) -> None:
    """Something that may be told is found by the same search, and what is stored is where it should be."""
    probe = Canaries()
    probe.note("known", str(os.getpid()))
    probe.note("event", "directory.loaded")
    probe.search("output", broker.log.encode())
    assert probe.hits["event in output"] >= 1
    assert len(canaries.values) >= 20
