"""What the tests of the keeper share: keepers as processes, messages scheduled as the router does it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from broker.store.agents import register
from broker.store.keys import StoredKey
from broker.store.pool import Pool
from broker.streams.connection import Connection
from broker.streams.keys import Keys
from broker.streams.lanes import IngressEntry
from broker.streams.moves import LANE_NUMBER, RouteBatch, call_route
from broker.streams.ownership import Lease, Leases
from broker.telemetry.gathering import scrape
from schema.agent import Agent
from schema.codec import encode
from schema.ids import new_id, shard_of
from schema.message import LANES, Envelope, Lane

LEASE_MS = 800
PATIENCE_S = 60.0
COMMAND = Path(sys.executable).with_name("agent-broker")


async def until(met: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until something is so; a failure says what never came."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await met():  # noqa: ASYNC110 (what is waited for is in another process)
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never came: {what}") from None


# --- processes --------------------------------------------------------------------------------------


class KeeperProcess:
    """An `agent-broker keeper` of its own."""

    def __init__(self, name: str, log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [COMMAND, "keeper"], env=environment, stdout=sink, stderr=sink, start_new_session=True
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of this name that it has logged."""
        lines = self._log.read_bytes().split(b"\n")[:-1]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    async def logged(self, name: str) -> dict[str, Any]:
        """Wait for the first event of this name."""

        async def met() -> bool:
            assert self._process.poll() is None, self._log.read_text()
            return bool(self.events(name))

        await until(met, f"{name} of {self.name}")
        return self.events(name)[0]

    async def metrics(self) -> str:
        """Return what it shows to Prometheus."""
        started = await self.logged("process.started")
        page = await scrape("127.0.0.1", started["metrics_port"])
        return "" if page is None else page.decode()

    async def stop(self) -> None:
        """Ask it to stop; it must end well."""
        self._process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self._process.wait, PATIENCE_S)
        assert code == 0, self._log.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


StartKeeper = Callable[..., KeeperProcess]


@contextmanager
def starting_keepers(home: Path) -> Iterator[StartKeeper]:
    """Return a function that starts keepers; those still running at the end are killed."""
    started: list[KeeperProcess] = []

    def start(redis_url: str, database_url: str, **settings: object) -> KeeperProcess:
        name = f"keeper-{len(started)}"
        given = {
            "REDIS_URL": redis_url,
            "DATABASE_URL": database_url,
            "PROCESS_NAME": name,
            "METRICS_PORT": "0",
            "LEASE_MS": str(LEASE_MS),
            **{key.upper(): str(value) for key, value in settings.items()},
        }
        plain = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
        keeper = KeeperProcess(name, home / f"{name}.log", plain | given)
        started.append(keeper)
        return keeper

    try:
        yield start
    finally:
        for keeper in started:
            keeper.kill()


# --- what lies in Redis -----------------------------------------------------------------------------


@asynccontextmanager
async def leased(connection: Connection, trade: str, *, shards: int = 1) -> AsyncIterator[list[Lease]]:
    """Hold the leases of all shards for a trade."""
    leases = Leases(trade=trade, process=f"{trade}-of-test", shards=shards, lease_ms=60_000)
    yield await leases.take(connection, up_to=shards)
    await leases.leave(connection)


async def schedule(
    connection: Connection, lease: Lease, due_ms: dict[str, int], lane: Lane = Lane.NORMAL
) -> None:
    """Schedule messages (id -> when they are due) as the router does, with its lease."""
    batch = RouteBatch()
    for message_id, moment in due_ms.items():
        body = encode(Envelope(id=message_id))
        member = LANE_NUMBER[lane] + message_id
        batch.add(message_id.encode())
        batch.schedule(member, moment, body)
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    call_route(
        connection,
        Keys(lease.shard),
        batch,
        owner=lease.value,
        window_ms=120_000,
        now_ms=int(time.time() * 1000),
        on_reply=answered.set_result,
    )
    reply = await answered
    assert isinstance(reply, list), reply


async def arrived(connection: Connection, shard: int) -> list[tuple[str, Lane, int]]:
    """Return the messages in the ingress of a shard: id, lane, and when they came by the server's clock."""
    found = []
    for lane in LANES:
        for entry_id, fields in await connection.send("XRANGE", Keys(shard).ingress[lane], "-", "+"):
            entry = IngressEntry(lane, entry_id.decode(), fields)
            assert entry.passed
            found += [(json.loads(message)["id"], lane, entry.at_ms) for message in entry.messages]
    return found


async def server_ms(connection: Connection) -> int:
    seconds, micros = await connection.send("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def agent_ids(count: int, *, shard: int = 0, shards: int = 1) -> list[str]:
    """Return ids of agents that belong to a shard."""
    found: list[str] = []
    while len(found) < count:
        agent_id = new_id()
        if shard_of(agent_id, shards) == shard:
            found.append(agent_id)
    return found


async def hear(connection: Connection, shard: int, heard: dict[str, int]) -> None:
    """Note signs of life (agent -> ms)."""
    pairs = [part for agent_id, at_ms in heard.items() for part in (at_ms, agent_id)]
    await connection.send("ZADD", Keys(shard).presence, "GT", *pairs)


# --- what lies in Postgres --------------------------------------------------------------------------


async def add_agents(pool: Pool, ids: list[str]) -> None:
    for agent_id in ids:
        key = StoredKey(
            id=new_id(),
            agent_id=agent_id,
            scopes=(),
            hash=b"h",
            prefix="abk",
            created_ms=1,
            expires_ms=None,
            revoked_ms=None,
        )
        await register(pool, Agent(id=agent_id, name=agent_id, created_ms=1, updated_ms=1), key)
