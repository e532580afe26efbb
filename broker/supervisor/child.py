"""One supervised process: started, restarted when it ends unasked, stopped when asked.

Restarts back off from 0.2 s to 5 s; a child that lived for 30 s starts from 0.2 s again. A child that says
its configuration is wrong (exit code 2) is not restarted: that never heals by itself.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Final

from broker.settings import EXIT_CODE_FAULTY
from broker.telemetry import logs, metrics
from schema.errors import BrokerError

BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
HEALTHY_S: Final = 30.0
KILLED_S: Final = 5.0


class ChildMisconfigured(BrokerError):
    """A child ended with exit code 2; it said why on stderr."""

    code = "misconfigured"


class Child:
    """A process and its restarts.

    `argv`: its last word must be found in no stranger's command line, because orphans are recognised by it.
    `environment` is asked at every start, so that a port that was taken is chosen anew. `inherit`: open files
    it gets. `stop_s`: how long a clean stop may take. `on_start` is told each new process id.
    """

    def __init__(
        self,
        name: str,
        argv: list[str],
        *,
        environment: Callable[[], Mapping[str, str]],
        inherit: tuple[int, ...] = (),
        stop_s: float = 30.0,
        on_start: Callable[["Child"], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.mark = argv[-1]
        self.pid: int | None = None
        self.restarts = 0
        self._argv = argv
        self._environment = environment
        self._inherit = inherit
        self._stop_s = stop_s
        self._on_start = on_start
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        # A stop that comes in the middle of a start must not miss the process that is being made.
        self._starting = asyncio.Lock()

    async def run(self) -> None:
        """Keep the process running until `stop`.

        Raises: ChildMisconfigured.
        """
        backoff_s = BACKOFF_FIRST_S
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            if code == EXIT_CODE_FAULTY:
                raise ChildMisconfigured(f"{self.name} cannot work with this configuration; see above")
            if time.monotonic() - started >= HEALTHY_S:
                backoff_s = BACKOFF_FIRST_S
            logs.warning("child.ended", child=self.name, how=how_it_ended(code), restart_s=backoff_s)
            self.restarts += 1
            metrics.RESTARTS.child(child=self.name).inc()
            await pause(backoff_s, unless=self._stopping)
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def stop(self, abrupt: asyncio.Event) -> None:
        """Ask the process to end and wait; kill it when it takes too long or `abrupt` is set."""
        self._stopping.set()
        async with self._starting:
            process = self._process
        if process is None or process.returncode is not None:
            return
        _signal(process, signal.SIGTERM)
        if await self._ends(process, abrupt):
            return
        logs.warning("child.killed", child=self.name)
        # The whole session: a child may have started processes of its own (the demo's agents, a shell).
        _signal_session(process, signal.SIGKILL)
        async with asyncio.timeout(KILLED_S):
            await process.wait()

    async def _run_once(self) -> int:
        async with self._starting:
            process = None if self._stopping.is_set() else await self._start()
        if process is None:
            return 1
        code = await process.wait()
        self.pid = None
        return code

    async def _start(self) -> asyncio.subprocess.Process | None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=subprocess.DEVNULL,
                env=dict(self._environment()),
                pass_fds=self._inherit,
                start_new_session=True,
            )
        except OSError as error:
            logs.error("child.not_started", child=self.name, error=error)
            return None
        self.pid = self._process.pid
        self._on_start(self)
        logs.debug("child.started", child=self.name, child_pid=self.pid)
        return self._process

    async def _ends(self, process: asyncio.subprocess.Process, abrupt: asyncio.Event) -> bool:
        """Tell whether the process ended before `stop_s` was over and before `abrupt` was set."""
        ended = asyncio.ensure_future(process.wait())
        hurried = asyncio.ensure_future(abrupt.wait())
        try:
            await asyncio.wait((ended, hurried), timeout=self._stop_s, return_when=asyncio.FIRST_COMPLETED)
            return ended.done()
        finally:
            ended.cancel()
            hurried.cancel()


async def pause(seconds: float, *, unless: asyncio.Event) -> None:
    """Sleep, but no longer than until the event is set."""
    try:
        async with asyncio.timeout(seconds):
            await unless.wait()
    except TimeoutError:
        return


def how_it_ended(code: int) -> str:
    """Say in words what an exit code means."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _signal(process: asyncio.subprocess.Process, signum: signal.Signals) -> None:
    try:
        process.send_signal(signum)
    except ProcessLookupError:
        return


def _signal_session(process: asyncio.subprocess.Process, signum: signal.Signals) -> None:
    try:
        os.killpg(process.pid, signum)
    except ProcessLookupError:
        return
