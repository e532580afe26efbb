"""Installs a peer under build/peers from its lock file, once: a venv of its own, or node_modules.

Where that cannot be done (no node, no network, no wheel for this machine) it says why, and the peer is
skipped. What is installed is exactly what the lock file's hashes say.
"""

import asyncio
import fcntl
import hashlib
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[2] / "build" / "peers"
STAMP: Final = "installed"
INSTALL_S: Final = 300.0
PIP: Final = (
    "-m",
    "pip",
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--retries",
    "1",
    "--timeout",
    "30",
)
NPM: Final = ("ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
NODE_MAJOR_MIN: Final = 20


class Missing(Exception):
    """A peer cannot be installed here; the text says why."""


async def python(name: str) -> Path:
    """Return the `bin` directory of a peer's venv, making it if need be. Raises: Missing."""
    lock = HERE / name / "requirements.lock"
    async with _alone(name) as home:
        if not _is_current(home, lock):
            shutil.rmtree(home, ignore_errors=True)
            await _run(sys.executable, "-m", "venv", str(home))
            # The lock file holds everything, so nothing else is resolved.
            await _run(str(home / "bin" / "python"), *PIP, "--no-deps", "--require-hashes", "-r", str(lock))
            _stamp(home, lock)
    return home / "bin"


async def node(name: str, *also: Path) -> Path:
    """Return a directory with a peer's scripts, `also` and node_modules: scripts resolve packages from where
    they lie. Raises: Missing."""
    lock = HERE / name / "package-lock.json"
    await _require_node()
    async with _alone(name) as home:
        if not _is_current(home, lock):
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            for manifest in (lock, lock.with_name("package.json")):
                shutil.copy(manifest, home)  # npm installs where they lie
            await _run("npm", *NPM, cwd=home)
            _stamp(home, lock)
        for script in (*(HERE / name).glob("*.js"), *also):
            shutil.copy(script, home)
    return home


@asynccontextmanager
async def _alone(name: str) -> AsyncIterator[Path]:
    """Yield where a peer is installed, with nobody else installing it: tests run beside each other."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT / f"{name}.lock").open("w") as held:
        await asyncio.to_thread(fcntl.flock, held, fcntl.LOCK_EX)
        yield ROOT / name


async def _require_node() -> None:
    version = await _run("node", "--version")
    major = version.strip().removeprefix("v").partition(".")[0]
    if not major.isdigit() or int(major) < NODE_MAJOR_MIN:
        raise Missing(f"node {version.strip()} is older than {NODE_MAJOR_MIN}")
    if shutil.which("npm") is None:
        raise Missing("npm is not installed")


async def _run(*command: str, cwd: Path | None = None) -> str:
    """Run a command and return its output. Raises: Missing, with what it said."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=asyncio.subprocess.STDOUT, cwd=cwd
        )
    except FileNotFoundError:
        raise Missing(f"{command[0]} is not installed") from None
    try:
        async with asyncio.timeout(INSTALL_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise Missing(f"{Path(command[0]).name} did not end in {INSTALL_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = said.decode(errors="replace")
    if process.returncode != 0:
        raise Missing(f"{Path(command[0]).name} {' '.join(command[1:4])} failed: {_reason(text)}")
    return text


def _reason(text: str) -> str:
    """Return the first line pip or npm calls an error, without where this is on the machine."""
    lines = text.splitlines() or ["it said nothing"]
    found = next((line for line in lines if line.lower().startswith(("error", "npm error"))), lines[-1])
    return found.strip().replace(str(ROOT), "build/peers")[:200]


def _is_current(home: Path, lock: Path) -> bool:
    stamp = home / STAMP
    return stamp.exists() and stamp.read_text() == _digest(lock)


def _stamp(home: Path, lock: Path) -> None:
    (home / STAMP).write_text(_digest(lock))


def _digest(lock: Path) -> str:
    return f"{hashlib.sha256(lock.read_bytes()).hexdigest()} {sys.version_info[:2]}"
