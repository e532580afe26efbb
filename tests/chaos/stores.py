"""Valkey and PostgreSQL of a run: the embedded ones, on small file systems of their own where allowed.

Whatever dies without being told to is started again, as a supervisor would; what a fault has stopped stays
stopped until the fault has healed.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from broker.servers.postgres import EmbeddedPostgres
from broker.servers.process import ServerFailed
from broker.servers.valkey import EmbeddedValkey
from chaos.journal import Journal

MEMORY_BYTES: Final = 256 * 1024**2
DISK_BYTES: Final = {"redis": 768 * 1024**2, "postgres": 2 * 1024**3}
FILL_STEP_BYTES: Final = 64 * 1024**2
PAGE_BYTES: Final = 4096
LOOK_S: Final = 0.1
START_AGAIN_S: Final = 0.5

GUARD: Final = """
import os, shutil, signal, subprocess, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.SIG_IGN)
home = sys.argv[1]
sys.stdin.read()
def of_ours():
    for entry in Path("/proc").iterdir():
        try:
            ours = home.encode() in (entry / "cmdline").read_bytes()
            if ours and entry.name.isdigit() and int(entry.name) != os.getpid():
                yield int(entry.name)
        except OSError:
            pass
# Twice and more: a server may be on its way up, without a pid file yet. SIGQUIT is PostgreSQL's word.
for signum in (signal.SIGQUIT, signal.SIGKILL, signal.SIGKILL):
    for pid in of_ours():
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            pass
    time.sleep(0.5)
for name in ("redis", "postgres"):
    subprocess.run(["umount", "-l", f"{home}/{name}"], stderr=subprocess.DEVNULL)
shutil.rmtree(home, ignore_errors=True)
"""
"""Ends the servers and their file systems when the driver cannot: its death closes the guard's input."""


class Store:
    """One server, its disk, and whether it is meant to run."""

    def __init__(self, name: str, disk: Path, server: EmbeddedValkey | EmbeddedPostgres) -> None:
        self.name = name
        self.disk = disk
        self.server = server
        self.in_hand = asyncio.Lock()
        """Held by the fault that has the server: one at a time."""
        self.is_wanted = True
        self.deaths = 0
        """Times it ended without being told to."""
        self._starting = asyncio.Lock()

    @property
    def ballast(self) -> Path:
        return self.disk / "ballast"

    def fill(self) -> None:
        """Leave no byte of the disk free; in ever smaller steps, because the server writes meanwhile."""
        with self.ballast.open("wb") as file:
            size, step = 0, FILL_STEP_BYTES
            while step >= PAGE_BYTES:
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError:
                    step //= 4

    def empty(self) -> None:
        self.ballast.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it by kill -9."""
        with suppress(ProcessLookupError, ServerFailed):
            os.kill(self.server.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        try:
            return self.server.exit_code() is not None
        except ServerFailed:
            return True

    async def start(self) -> None:
        """Start it, and again until it stays."""
        async with self._starting:
            self.is_wanted = True
            while self.is_wanted:
                try:
                    await asyncio.to_thread(self.server.start)
                    return
                except ServerFailed:
                    await asyncio.sleep(START_AGAIN_S)

    async def watch(self, journal: Journal) -> None:
        """Start it again whenever it dies by itself."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.is_wanted and not self._starting.locked() and self.has_ended():
                self.deaths += 1
                with journal.during(f"{self.name} ended", self.name, interrupts=True):
                    await self.start()


class Stores:
    """Both stores. Use `async with stores(...)`."""

    def __init__(self, redis: Store, postgres: Store, *, own_disks: bool) -> None:
        self.redis = redis
        self.postgres = postgres
        self.own_disks = own_disks
        """Whether each has a file system of its own, that can be filled without harm to anybody else."""

    @property
    def redis_url(self) -> str:
        assert isinstance(self.redis.server, EmbeddedValkey)
        return self.redis.server.url

    @property
    def database_url(self) -> str:
        assert isinstance(self.postgres.server, EmbeddedPostgres)
        return self.postgres.server.tcp_url

    async def limit_memory(self, limit_bytes: int) -> None:
        """Tell Valkey how much memory it may use."""
        async with Redis.from_url(self.redis_url) as client:
            await client.config_set("maxmemory", limit_bytes)

    async def memory_bytes(self) -> int:
        async with Redis.from_url(self.redis_url) as client:
            return int((await client.info("memory"))["used_memory"])


@asynccontextmanager
async def stores(home: Path) -> AsyncIterator[Stores]:
    """Start both servers under a directory; end them and unmount at the end, keeping their logs."""
    disks = {name: home / name for name in DISK_BYTES}
    guard = subprocess.Popen(  # noqa: ASYNC220  # takes milliseconds, and nothing runs yet
        [sys.executable, "-P", "-c", GUARD, str(home)], stdin=subprocess.PIPE, start_new_session=True
    )
    mounted = [_mount(disk, DISK_BYTES[name]) for name, disk in disks.items()]
    # Rewritten often, so that some kills fall into a rewrite.
    valkey = EmbeddedValkey(
        disks["redis"] / "valkey",
        maxmemory_bytes=MEMORY_BYTES,
        lines=("auto-aof-rewrite-min-size 32mb",),
    )
    running = Stores(
        Store("redis", disks["redis"], valkey),
        Store("postgres", disks["postgres"], EmbeddedPostgres(disks["postgres"] / "server")),
        own_disks=all(mounted),
    )
    try:
        await asyncio.gather(running.redis.start(), running.postgres.start())
        yield running
    finally:
        for store in (running.redis, running.postgres):
            store.is_wanted = False
            with suppress(ServerFailed):
                await asyncio.to_thread(store.server.stop)
        guard.communicate()


def save_logs(running: Stores, folder: Path) -> None:
    """Copy what the servers logged."""
    for store, name in ((running.redis, "valkey/valkey.log"), (running.postgres, "server/postgres.log")):
        if (store.disk / name).exists():
            shutil.copy(store.disk / name, folder / f"{store.name}.log")


def _mount(disk: Path, size_bytes: int) -> bool:
    disk.mkdir(parents=True, mode=0o711)
    if os.geteuid() != 0 or sys.platform != "linux":
        return False
    words = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0711", "agent-broker-chaos", str(disk)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
