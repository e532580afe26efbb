"""Real servers for the tests: the embedded ones, and Debian's where they are installed.

They start once per session, in a temporary directory of their own, on free ports. Every test that asks for
`streams_url` or `database_url` gets an empty database; the second one is cloned from a migrated template.
"""

import asyncio
import faulthandler
import functools
import glob
import inspect
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
import redis
import uvloop
from cluster import ON_CLUSTER, Cluster, client_of, close
from hypothesis import HealthCheck, settings
from whole_broker import SHORT, WholeBroker, free_port

from broker.servers.postgres import EmbeddedPostgres
from broker.servers.valkey import EmbeddedValkey
from broker.store import migrate as migrate_module
from broker.store import pool as pool_module
from broker.store.pool import Pool, open_pool
from broker.streams import clock as clock_module
from broker.streams import node as node_module
from broker.streams import ownership as ownership_module

MEMORY_BYTES = 512 * 1024**2
TEMPLATE = "migrated_template"
QUICK_BYTES_MIN = 4 * 1024**3
HANGING_S = 120.0
STORE_PATIENCE_S = 20.0
STDERR = pytest.StashKey[int]()
GUARD = """
import os, shutil, signal, sys
from pathlib import Path
from broker.servers.process import read_pid, runs_with
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.stdin.read()
home = Path(sys.argv[1])
for note in (*home.glob("**/valkey.pid"), *home.glob("*/data/postmaster.pid")):
    pid = read_pid(note)
    if pid and runs_with(pid, str(home)):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGQUIT)
shutil.rmtree(home, ignore_errors=True)
"""
"""Ends the servers when the tests cannot: a killed test run closes the guard's input.

SIGTERM ends Valkey, SIGQUIT PostgreSQL, whatever sessions it still has."""
DEBIAN_REDIS = shutil.which("redis-server")
DEBIAN_POSTGRES = sorted(glob.glob("/usr/lib/postgresql/*/bin"))

needs_debian_redis = pytest.mark.skipif(DEBIAN_REDIS is None, reason="no redis-server installed")
needs_debian_postgres = pytest.mark.skipif(not DEBIAN_POSTGRES, reason="no PostgreSQL installed")
REDIS_KINDS = ["cluster"] if ON_CLUSTER else ["embedded", pytest.param("debian", marks=needs_debian_redis)]
POSTGRES_KINDS = ["embedded", pytest.param("debian", marks=needs_debian_postgres)]


# What Hypothesis measures in seconds says more about who else uses the machine than about our code.
settings.register_profile(
    "shared-machine", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared-machine")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Async tests run on uvloop, as the product does."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_configure(config: pytest.Config) -> None:
    """Let temporary directories lie in memory where there is room: a test's own PostgreSQL is made in half
    the time there, and stopped in a tenth (measured)."""
    place = _quick_place()
    if place is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", place)
    config.stash[STDERR] = os.dup(2)  # Tests run with another one.
    # A shell without job control starts what it puts into the background deaf to Ctrl-C, children and all.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let no test go on for ever.

    pytest-timeout raises from a signal, which uvloop does not see while it waits: a coroutine has a timeout
    of its own. What goes on after that (a teardown, a thread) ends its process, as one failure.
    """
    marked = item.get_closest_marker("timeout")
    allowed_s = float(marked.args[0]) if marked else float(str(item.config.getini("timeout")))
    if allowed_s and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = _bounded(item.obj, allowed_s * 0.9)
    watch = threading.Timer(allowed_s + HANGING_S, _end_a_hang, (item.nodeid, item.config.stash[STDERR]))
    watch.daemon = True
    if allowed_s:
        watch.start()
    try:
        return (yield)
    finally:
        watch.cancel()


_LOOPS: Final[deque[asyncio.AbstractEventLoop]] = deque(maxlen=1)
"""The loop of the last coroutine that was tested."""


def _bounded(test: Callable[..., Coroutine[object, object, None]], seconds: float) -> Callable[..., object]:
    @functools.wraps(test)
    async def bounded(*args: object, **kwargs: object) -> None:
        _LOOPS.append(asyncio.get_running_loop())
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return bounded


def _end_a_hang(test: str, stderr: int) -> None:
    os.write(stderr, f"\n{test} hangs, and does not end by its timeout:\n".encode())
    faulthandler.dump_traceback(stderr)
    # A thread that runs a loop shows none of what waits in it.
    for task in asyncio.all_tasks(_LOOPS[-1]) if _LOOPS else ():
        stack = io.StringIO()
        task.print_stack(file=stack)
        os.write(stderr, stack.getvalue().encode())
    os._exit(1)


# --- the whole broker, one per session ----------------------------------------------------------------


@pytest.fixture(scope="session")
def calm_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeBroker]:
    """A broker nobody breaks, all its processes; starts when first asked for."""
    broker = WholeBroker(tmp_path_factory.mktemp("calm"), port=free_port(), **SHORT)
    broker.start()
    yield broker
    assert broker.stop() == 0


# --- servers, one of each kind per session ----------------------------------------------------------


Server = EmbeddedValkey | EmbeddedPostgres | Cluster


@pytest.fixture(scope="session")
def servers(server_of: Callable[[str], Server]) -> Callable[[str], str]:
    """Return a function from a kind of server to its URL."""
    return lambda kind: server_of(kind).url


@pytest.fixture(scope="session")
def server_of() -> Iterator[Callable[[str], Server]]:
    """Return a function from a kind of server to the one there is; it starts when first asked for."""
    home = Path(tempfile.mkdtemp(prefix="ab-test-", dir=_quick_place()))
    command = [sys.executable, "-P", "-c", GUARD, str(home)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    started: dict[str, Server] = {}

    def started_one(kind: str) -> Server:
        if kind not in started:
            server = _make(kind, home / kind.replace(" ", "-"))
            server.start()
            started[kind] = server
        return started[kind]

    yield started_one
    for server in started.values():
        if isinstance(server, EmbeddedPostgres):
            server.stop("immediate")
        else:
            server.stop()
    shutil.rmtree(home, ignore_errors=True)
    guard.communicate()


def _quick_place() -> str | None:
    """Return a place in memory where there is room in one: a database a test is made and dropped ten times as
    fast there (measured), and the servers sync as they always do. None: wherever temporary files go."""
    place = "/dev/shm"
    if not os.access(place, os.W_OK) or shutil.disk_usage(place).free < QUICK_BYTES_MIN:
        return None
    return place


def _make(kind: str, home: Path) -> Server:
    match kind:
        case "redis cluster":
            return Cluster(home, maxmemory_bytes=MEMORY_BYTES)
        case "redis embedded":
            return EmbeddedValkey(home, maxmemory_bytes=MEMORY_BYTES)
        case "redis debian":
            return EmbeddedValkey(home, maxmemory_bytes=MEMORY_BYTES, binary=Path(str(DEBIAN_REDIS)))
        case "postgres embedded":
            return EmbeddedPostgres(home)
        case "postgres debian":
            return EmbeddedPostgres(home, bin_dir=Path(DEBIAN_POSTGRES[-1]))
        case _:
            raise ValueError(kind)


@pytest.fixture(scope="session")
def valkey_url(servers: Callable[[str], str]) -> str:
    """The embedded Valkey."""
    return servers("redis cluster" if ON_CLUSTER else "redis embedded")


@pytest.fixture(scope="session")
def postgres_url(servers: Callable[[str], str]) -> str:
    """The embedded PostgreSQL, its own empty database."""
    return servers("postgres embedded")


@pytest.fixture(scope="session", params=REDIS_KINDS)
def any_redis_url(request: pytest.FixtureRequest, servers: Callable[[str], str]) -> str:
    """Each Redis there is, in turn."""
    return servers(f"redis {request.param}")


@pytest.fixture(scope="session", params=POSTGRES_KINDS)
def any_postgres_url(request: pytest.FixtureRequest, servers: Callable[[str], str]) -> str:
    """Each PostgreSQL there is, in turn."""
    return servers(f"postgres {request.param}")


@pytest.fixture
def own_redis() -> Iterator[EmbeddedValkey]:
    """A Redis of this test's own, to be stopped and started."""
    home = Path(tempfile.mkdtemp(prefix="ab-"))
    server = EmbeddedValkey(home, maxmemory_bytes=64 * 1024**2)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(home)


# --- an empty database per test ---------------------------------------------------------------------


@pytest.fixture
def streams_url(valkey_url: str) -> str:
    """The embedded Valkey, emptied."""
    return _emptied(valkey_url)


@pytest.fixture
def cluster(server_of: Callable[[str], Server]) -> Iterator[Cluster]:
    """Three nodes, emptied; what a test has stopped is started again."""
    found = server_of("redis cluster")
    assert isinstance(found, Cluster)
    _emptied(found.url)
    yield found
    found.mend()


@pytest.fixture
def any_streams_url(any_redis_url: str) -> str:
    """Each Redis there is, emptied."""
    return _emptied(any_redis_url)


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """A fresh, migrated database on the embedded PostgreSQL."""
    url = await _fresh_database(postgres_url)
    yield url
    await _drop(postgres_url, url)


@pytest.fixture(autouse=True)
def patient_stores() -> Iterator[None]:
    """Let stores take long to answer, in this process: a machine may stand still for seconds, and "the store
    does not answer" is no more than that then. What asks how soon a store is given up says how soon by
    itself."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (pool_module, "ACQUIRE_S"),
            (pool_module, "CONNECT_S"),
            (migrate_module, "CONNECT_S"),
            (node_module, "CONNECT_TIMEOUT_S"),
            (clock_module, "ANSWER_S"),
            (ownership_module, "ANSWER_S_MIN"),
        ):
            patch.setattr(module, name, STORE_PATIENCE_S)
        yield


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """A pool on a fresh, migrated database."""
    opened = await open_pool(database_url, application_name="tests")
    yield opened
    await opened.aclose()


@pytest.fixture
async def any_database_url(any_postgres_url: str) -> AsyncIterator[str]:
    """A fresh, migrated database on each PostgreSQL there is."""
    url = await _fresh_database(any_postgres_url)
    yield url
    await _drop(any_postgres_url, url)


@pytest.fixture
async def empty_database_url(any_postgres_url: str) -> AsyncIterator[str]:
    """A database with nothing in it on each PostgreSQL there is, for tests of the migrations."""
    url = _with_database(any_postgres_url, f"empty_{uuid4().hex}")
    await _execute(any_postgres_url, f"CREATE DATABASE {_database_of(url)}")
    yield url
    await _drop(any_postgres_url, url)


def _emptied(url: str) -> str:
    with _client(url) as client:
        client.flushall()
        client.script_flush()
    return url


@contextmanager
def _client(url: str) -> Iterator["redis.Redis"]:
    client = client_of(url)
    try:
        yield client
    finally:
        close(client)


_templates: set[str] = set()


async def _fresh_database(server_url: str) -> str:
    if server_url not in _templates:
        await _make_template(server_url)
        _templates.add(server_url)
    name = f"test_{uuid4().hex}"
    await _execute(server_url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy")
    return _with_database(server_url, name)


async def _make_template(server_url: str) -> None:
    """Migrate once; cloning is several times as fast. Nobody may be connected to a template."""
    from broker.store.migrate import migrate

    # One that was left half made would fail every test after the one that made it.
    await _execute(server_url, f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")
    await _execute(server_url, f"CREATE DATABASE {TEMPLATE}")
    await migrate(_with_database(server_url, TEMPLATE))


async def _drop(server_url: str, database_url: str) -> None:
    await _execute(server_url, f"DROP DATABASE {_database_of(database_url)} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _with_database(url: str, name: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{name}"))


def _database_of(url: str) -> str:
    return urlsplit(url).path[1:]
