"""The broker's processes: single roles, each through `chaos.launch`, started again whenever they end.

A process that is started again may be armed with a crash point, drawn from the seed. Ends are told apart:
killed by the harness, at a crash point, asked to stop, or by themselves.
"""

import asyncio
import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Final

from msgspec import Struct, field
from whole_broker import environment, free_port

from chaos import clock, crash_points
from chaos.journal import Journal
from chaos.launch import EXIT_NO_SUCH_POINT
from chaos.notes import lines
from chaos.python import SEARCHED, module

LOOK_S: Final = 0.05
RESTART_S: Final = (0.1, 0.6)
ARMED_PART: Final = 0.75
"""How many of the processes that are started carry a crash point."""
STOPPED_S_MAX: Final = 40.0
"""A process told to stop that has not ended by then is killed, which is noted."""


class Slot(Struct):
    """A place for a process: its name stays over restarts, and with it its leases."""

    name: str
    role: str
    words: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    ending: str = ""
    """Why it is expected to end: `kill`, `term`, or nothing."""
    is_stopped: bool = False
    """Whether it is held by SIGSTOP."""
    restart_at_s: float = 0.0
    exits: Counter[str] = field(default_factory=Counter)


class Fleet:
    """Every process of the deployment."""

    def __init__(self, folder: Path, journal: Journal, seed: int, *, mutant: str = "") -> None:
        self._folder = folder
        self._journal = journal
        self._mutant = mutant
        self._chance = random.Random(f"{seed}/fleet")
        self._turns: dict[str, list[str]] = {}
        self._fired_seen = 0
        self.fired: Counter[str] = Counter()
        self.slots: dict[str, Slot] = {}
        self.metrics_ports: dict[str, int] = {}
        self.is_armed = False
        """Whether processes are given crash points when they start."""
        self.is_keeping_up = True
        """Whether ended processes are started again."""
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def add(self, name: str, role: str, *words: str, **settings: str) -> None:
        """Add a place and start its process."""
        self.metrics_ports[name] = free_port()
        slot = Slot(
            name,
            role,
            [role, *words],
            environment(PROCESS_NAME=name, METRICS_PORT=str(self.metrics_ports[name]), **settings)
            | {"PYTHONPATH": SEARCHED},
        )
        clock.write(self.clock_of(name), 0.0)
        self.slots[name] = slot
        self._start(slot)

    def of_role(self, role: str) -> list[str]:
        return [slot.name for slot in self.slots.values() if slot.role == role]

    def clock_of(self, name: str) -> Path:
        return self._folder / f"clock-{name}"

    def kill(self, name: str) -> bool:
        """End a process by kill -9; False where there is none now, or it is in other hands."""
        return self._signal(name, signal.SIGKILL, "kill")

    def terminate(self, name: str) -> bool:
        """Ask a process to stop."""
        return self._signal(name, signal.SIGTERM, "term")

    def hold(self, name: str) -> bool:
        """Stop a process in its tracks."""
        slot = self.slots[name]
        slot.is_stopped = self._signal(name, signal.SIGSTOP, "")
        return slot.is_stopped

    def release(self, name: str) -> None:
        """Let a held process go on."""
        slot = self.slots[name]
        if slot.is_stopped:
            slot.is_stopped = False
            self._signal(name, signal.SIGCONT, slot.ending)

    async def watch(self) -> None:
        """Note ends and start again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Note which processes have ended; start those whose time has come."""
        for slot in self.slots.values():
            now_s = asyncio.get_running_loop().time()
            if slot.process is not None and slot.process.poll() is not None:
                self._ended(slot)
                slot.restart_at_s = now_s + self._chance.uniform(*RESTART_S)
            elif slot.process is None and self.is_keeping_up and now_s >= slot.restart_at_s:
                self._start(slot)

    async def stop(self) -> dict[str, int]:
        """Ask all to stop, in the order in which a supervisor does; return their exit codes."""
        self.is_keeping_up = False
        codes: dict[str, int] = {}
        for role in ("gateway", "worker", "recorder", "keeper"):
            ending = [slot for slot in self.slots.values() if slot.role == role and slot.process]
            for slot in ending:
                self.terminate(slot.name)
            for slot in ending:
                assert slot.process is not None
                try:
                    codes[slot.name] = await asyncio.to_thread(slot.process.wait, STOPPED_S_MAX)
                except subprocess.TimeoutExpired:
                    slot.process.kill()
                    codes[slot.name] = slot.process.wait()
                slot.process = None
        return codes

    def end(self) -> None:
        """Kill whatever still runs."""
        for slot in self.slots.values():
            if slot.process is not None:
                slot.process.kill()
                slot.process.wait()
                slot.process = None

    # --- inside -------------------------------------------------------------------------------------------

    def _start(self, slot: Slot) -> None:
        words = module("launch", "--clock", str(self.clock_of(slot.name)))
        if self._mutant:
            words += ["--mutant", self._mutant]
        if self.is_armed and self._chance.random() < ARMED_PART:
            point = self._next_point(slot.role)
            nth = self._chance.randint(1, crash_points.POINTS[point].reach)
            words += ["--crash", point, "--nth", str(nth), "--fired", str(self._folder / "fired")]
        slot.ending, slot.is_stopped = "", False
        with (self._folder / "logs" / f"{slot.name}.log").open("ab") as sink:
            slot.process = subprocess.Popen(
                [*words, "--", *slot.words],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=slot.environment,
            )

    def _next_point(self, role: str) -> str:
        """Draw the role's points in turn, each round in another order: all of them come up."""
        turn = self._turns.setdefault(role, [])
        if not turn:
            turn += crash_points.of_role(role)
            self._chance.shuffle(turn)
        return turn.pop()

    def _ended(self, slot: Slot) -> None:
        assert slot.process is not None
        pid, code = slot.process.pid, slot.process.returncode
        slot.process = None
        self._count_fired()
        if code == EXIT_NO_SUCH_POINT:
            raise crash_points.NoSuchPoint(f"{slot.name} met a crash point that is not there; see its log")
        if slot.ending:
            slot.exits[f"{slot.ending}: {code}"] += 1
            if slot.ending == "term" and code != 0:
                self._journal.say("unclean", name=slot.name, code=code)
        elif code == -signal.SIGKILL and pid in self._fired_pids:
            slot.exits["crash point"] += 1
            self._journal.struck(f"crash point of a {slot.role}", slot.name, interrupts=slot.role == "worker",
                                 at=self._fired_pids[pid])  # fmt: skip
        else:
            slot.exits[f"by itself: {code}"] += 1
            self._journal.say("ended_by_itself", name=slot.name, code=code)
            self._journal.struck(f"{slot.role} ended by itself", slot.name, interrupts=True)

    def _count_fired(self) -> None:
        found = list(lines(self._folder / "fired"))
        self.fired = Counter(line["point"] for line in found)
        self._fired_pids: dict[int, float] = {line["pid"]: line["at"] for line in found}

    def _signal(self, name: str, signum: signal.Signals, ending: str) -> bool:
        slot = self.slots[name]
        if slot.process is None or slot.process.poll() is not None:
            return False
        if slot.ending and ending not in ("kill", slot.ending):
            return False
        slot.ending = ending
        os.kill(slot.process.pid, signum)
        return True
