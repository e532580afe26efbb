"""Everything that runs: the broker's processes, and the publishers, receivers and proxy around them."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct
from outside_ledger import ENDED
from whole_broker import free_port

from broker.client.http import AgentClient
from chaos import account, canary, record, schedule
from chaos.cast import CAST, Manner
from chaos.faults import World
from chaos.fleet import Fleet
from chaos.journal import Journal
from chaos.links import Links
from chaos.notes import lines
from chaos.publishing import Orders
from chaos.python import module, searching
from chaos.stores import Stores
from schema.errors import BrokerError

LEASE_MS: Final = 2_500
SETTINGS: Final = {
    "SHARDS": "4",
    "LEASE_MS": str(LEASE_MS),
    "DRAIN_TIMEOUT_MS": "10000",
    "RETRY_TIME_SCALE": "0.05",
    "ATTEMPT_TOTAL_MS": "4000",
    "ATTEMPT_CONNECT_MS": "1000",
    "ATTEMPT_FIRST_BYTE_MS": "3000",
    "DEDUP_WINDOW_MS": "600000",
    "ENDPOINT_ALLOW_CIDRS": "127.0.0.0/8",
    "LOG_LEVEL": "debug",
}
PLACES: Final = {
    "gateway-1": ("gateway",),
    "gateway-2": ("gateway",),
    "worker-1": ("worker",),
    "worker-2": ("worker",),
    "worker-3": ("worker", "--trades", "route"),
    "worker-4": ("worker", "--trades", "deliver"),
    "recorder-1": ("recorder",),
    "recorder-2": ("recorder",),
    "keeper-1": ("keeper",),
    "keeper-2": ("keeper",),
}
READY_S: Final = 90.0
DRAIN_S: Final = 240.0
DRAIN_LOOK_S: Final = 1.0
SCRAPE_S: Final = 10.0
SAID_S: Final = 10.0
PUBLISHERS_END_S: Final = 120.0
WARM_UP_S: Final = 3.0


class Wanted(Struct):
    """What was asked for on the command line."""

    seed: int
    minutes: float
    folder: Path
    """Where logs, ledgers and the journal of this run go."""
    home: Path
    """Where the stores live; temporary."""
    rate: float = 40.0
    brief: bool = False
    mutant: str = ""
    aims: bool = False
    """Whether the gates hold the numbers of a full run."""


class Deployment:
    """Everything that runs, inside the system under test and around it."""

    def __init__(
        self,
        wanted: Wanted,
        running: Stores,
        journal: Journal,
        canaries: canary.Canaries,
        stack: AsyncExitStack,
    ) -> None:
        self.fleet = Fleet(wanted.folder, journal, wanted.seed, mutant=wanted.mutant)
        self.links: Links
        self._wanted = wanted
        self._stores = running
        self._journal = journal
        self._canaries = canaries
        self._stack = stack
        self._key = canaries.make("operator key")
        self._mark = canaries.make("mark in bodies")
        self._token = canaries.make("token in endpoints")
        self._agents: dict[str, str] = {}

    async def start(self) -> None:
        """Start processes, register agents, begin to receive."""
        self._receivers = receivers = self._program("receiving", "received")
        port = json.loads(await asyncio.to_thread(_line_of, receivers))["port"]
        gateways = {name: free_port() for name in PLACES if name.startswith("gateway")}
        self.links = self._stack.enter_context(Links(self._targets(port, gateways)))
        self._stack.callback(self.fleet.end)
        pepper = self._canaries.make("key pepper")
        secrets_key = self._canaries.make("key of secrets")
        self._canaries.note_password("password of Redis", self._stores.redis_url)
        self._canaries.note_password("password of Postgres", self._stores.database_url)
        for name, (role, *words) in PLACES.items():
            self.fleet.add(
                name,
                role,
                *words,
                **SETTINGS,
                REDIS_URL=self._through(f"{name}>redis", self._stores.redis_url),
                DATABASE_URL=self._through(f"{name}>postgres", self._stores.database_url),
                AGENT_API_KEY=self._key,
                KEY_PEPPER=pepper,
                SECRETS_KEY=secrets_key,
                PORT=str(gateways.get(name, 0)),
            )
        secrets = await self._register([f"http://127.0.0.1:{port}" for port in gateways.values()])
        urls = [f"http://127.0.0.1:{self.links.ports[f'publishers>{name}']}" for name in gateways]
        pulling = {part.name: self._agents[part.name] for part in CAST if part.manner is Manner.PULLING}
        _tell(receivers, {"trust": secrets, "pull": pulling, "gateways": urls, "key": self._key})
        self._publishers = self._program("publishing", "published")
        orders = Orders(
            redis_url=self._through("publishers>redis", self._stores.redis_url),
            gateways=urls,
            key=self._key,
            agents={n: i for n, i in self._agents.items() if not n.startswith("sender")},
            senders=[i for n, i in self._agents.items() if n.startswith("sender")],
            mark=self._mark,
            seed=self._wanted.seed,
            rate=self._wanted.rate,
            publishers=8,
        )
        _tell(self._publishers, {f: getattr(orders, f) for f in orders.__struct_fields__})

    async def torment(self) -> float:
        """Let the faults of the schedule happen; return for how many seconds."""
        wanted = self._wanted
        turns = schedule.draw(wanted.seed, wanted.minutes, brief=wanted.brief)
        world = World(self.fleet, self._stores, self.links, self._journal, LEASE_MS / 1000)
        async with self._watching():
            await asyncio.sleep(WARM_UP_S)
            began_s = asyncio.get_running_loop().time()
            self.fleet.is_armed = True
            async with asyncio.TaskGroup() as group:
                for at_s, fault in turns:
                    await asyncio.sleep(max(0.0, began_s + at_s - asyncio.get_running_loop().time()))
                    group.create_task(fault.run(world))
                await asyncio.sleep(
                    max(0.0, began_s + wanted.minutes * 60 - asyncio.get_running_loop().time())
                )
            self.fleet.is_armed = False
            chaos_s = asyncio.get_running_loop().time() - began_s
            assert self._publishers.stdin is not None
            self._publishers.stdin.close()
            await asyncio.to_thread(self._publishers.wait, PUBLISHERS_END_S)
        return chaos_s

    async def drain(self) -> dict[str, int]:
        """Wait, up to a limit, until everything has ended; return what Redis holds then."""
        sent = account.read_sent(lines(self._wanted.folder / "published"))
        acknowledged = [one.id for one in sent.values() if one.acknowledged]
        # Who failed all the time is well again, too: what waits for it would wait as long as it fails.
        _tell(self._receivers, {"well": True})
        deadline_s, said_s = time.monotonic() + DRAIN_S, 0.0
        left: dict[str, int] = {}
        async with self._watching():
            while time.monotonic() < deadline_s:
                await asyncio.sleep(DRAIN_LOOK_S)
                with suppress(OSError):
                    left = await record.left_in_redis(self._stores.redis_url)
                    waiting = await record.open_messages(self._stores.database_url, ENDED)
                    missing = len(acknowledged) - await record.known(self._stores.database_url, acknowledged)
                    if not (left or waiting or missing):
                        break
                    if time.monotonic() > said_s + SAID_S:
                        said_s = time.monotonic()
                        held = sum(left.values())
                        self._say(f"draining: {waiting} open, {missing} not on record, {held} in Redis")
            shown: dict[str, str] = {}
            left = await record.left_in_redis(self._stores.redis_url, shown)
        self._journal.say("drained", left=left, shown=shown)
        return left

    # --- inside -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """Start again what ends, scrape what is measured, tell how far it is."""
        work = (
            self.fleet.watch(),
            self._stores.redis.watch(self._journal),
            self._stores.postgres.watch(self._journal),
            self._scrape(),
            self._tell_progress(),
        )
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
            yield
            for task in tasks:
                task.cancel()

    def _program(self, name: str, ledger: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            module(name, str(self._wanted.folder / ledger)),
            env=searching(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if name == "receiving" else None,
        )
        self._stack.callback(process.kill)
        return process

    def _targets(self, receivers_port: int, gateways: dict[str, int]) -> dict[str, tuple[str, int]]:
        redis, postgres = _address(self._stores.redis_url), _address(self._stores.database_url)
        targets = {"workers>receivers": ("127.0.0.1", receivers_port), "publishers>redis": redis}
        for name in PLACES:
            targets[f"{name}>redis"], targets[f"{name}>postgres"] = redis, postgres
        for name, port in gateways.items():
            targets[f"publishers>{name}"] = "127.0.0.1", port
        return targets

    def _through(self, link: str, url: str) -> str:
        parts = urlsplit(url)
        user, _, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self.links.ports[link]}"))

    async def _register(self, gateways: list[str]) -> dict[str, str]:
        """Register the cast; return their signing secrets."""
        secrets: dict[str, str] = {}
        port = self.links.ports["workers>receivers"]
        async with AgentClient(gateways[0], self._key, timeout_s=30) as client:
            async with asyncio.timeout(READY_S):
                while not await client.is_ready():  # noqa: ASYNC110  # another process cannot set our events
                    await asyncio.sleep(0.1)
            for part in CAST:
                pulls = part.manner is Manner.PULLING
                endpoint = None if pulls else f"http://127.0.0.1:{port}/{part.name}?token={self._token}"
                skills = [part.skill] if part.skill else []
                agent = await client.register(part.name, endpoint=endpoint, capabilities=skills)
                self._agents[part.name] = agent.id
                secrets[part.name] = self._canaries.note(
                    f"signing secret of {part.name}", agent.signing_secret
                )
                self._canaries.note(f"key of {part.name}", agent.api_key)
            with suppress(BrokerError):
                # Refused, and what it was refused for must not be told to anybody but its sender.
                user = self._canaries.make("userinfo in an endpoint")
                await client.register("nobody", endpoint=f"http://{user}:{user}@127.0.0.1:{port}/nobody")
        return secrets

    async def _scrape(self) -> None:
        """Read every process's metrics now and then, and search them for what must not be there."""
        folder = self._wanted.folder / "metrics"
        folder.mkdir(exist_ok=True)
        while True:
            for name, port in self.fleet.metrics_ports.items():
                text = await _metrics(port)
                if text:
                    self._canaries.search(f"metrics of {name}", text)
                    (folder / name).write_bytes(text)
            await asyncio.sleep(SCRAPE_S)

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(30)
            sizes = [
                (self._wanted.folder / name).stat().st_size // 1024 for name in ("published", "received")
            ]
            faults = sum(self._journal.counts.values())
            self._say(f"{faults} faults so far; ledgers {sizes[0]} and {sizes[1]} KiB")

    def _say(self, words: str) -> None:
        print(f"{datetime.now(UTC):%H:%M:%S} {words}", file=sys.stderr, flush=True)


async def _metrics(port: int) -> bytes:
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            text = await reader.read(4 * 1024 * 1024)
            writer.close()
            return text
    except (OSError, TimeoutError):
        return b""


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.port is not None
    return "127.0.0.1", parts.port


def _tell(process: subprocess.Popen[bytes], words: dict[str, Any]) -> None:  # Any: JSON
    assert process.stdin is not None
    process.stdin.write(json.dumps(words).encode() + b"\n")
    process.stdin.flush()


def _line_of(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()
