"""Agent Broker beside peers that do the same job as far as they can, on the same machine in the same run.

    PYTHONPATH=tests python -m bench.peers [--quick] [--only faststream,nats] [--out DIR]

About four minutes, and the first time as long as the downloads take.

Every message goes to one of 1,000 agents by HTTP POST on 200 loopback ports, is retried on failure and
acknowledged after success, with a row per message and per attempt committed in Postgres. Broker and peers use
the same servers (`appendfsync always`), each its own empty databases, and take turns (A B A B); a peer's
processes run only during its turns. A peer that cannot be installed here is skipped, and why is said. See
README.md beside this file for what each peer does and lacks.
"""

import argparse
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from secrets import token_hex
from typing import Final
from uuid import uuid4

from msgspec import Struct, structs
from rich.console import Console

from bench.kit.broker import fresh_broker
from bench.kit.program import run
from bench.kit.report import Findings
from bench.peers import install, stream_part
from bench.peers.catalogue import NAMES, PEERS, STREAM_PART, Crew, Peer
from bench.peers.report import Measured, findings
from bench.peers.stream_part import StreamRun
from bench.peers.team import tail
from bench.peers.turn import Field, open_field
from broker.bench.commits import Stuck
from broker.bench.control import ChildFailed
from broker.bench.fleet import register
from broker.bench.rig import Rig, open_rig
from broker.bench.subject import Subject
from broker.client.http import AgentClient

NAME: Final = "peers"
TITLE: Final = "Agent Broker beside its peers"


class Sizes(Struct, frozen=True):
    """How much is measured: messages of a turn, turns of each, a paced run. A fifth of the messages warms up
    and, where settings are tried, serves each."""

    messages: int
    repeat: int
    rate: int
    seconds: int
    agents: int
    endpoints: int
    tune: bool = True

    @property
    def few(self) -> int:
        """Return how many messages are enough to warm up and to compare."""
        return max(self.messages // 5, 1)


FULL: Final = Sizes(messages=10_000, repeat=3, rate=1_000, seconds=6, agents=1_000, endpoints=200)
QUICK: Final = Sizes(messages=300, repeat=1, rate=100, seconds=1, agents=20, endpoints=5, tune=False)
QUICK_PEERS: Final = ("faststream",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    add = parser.add_argument
    add("--only", default="", help=f"peers to measure, of {', '.join(NAMES)} (default all)")
    add("--messages", type=int, default=0, help=f"messages of a flat-out turn (default {FULL.messages})")
    add("--repeat", type=int, default=0, help=f"turns of each (default {FULL.repeat})")
    add("--seconds", type=int, default=0, help=f"length of a paced run (default {FULL.seconds})")


async def main(args: argparse.Namespace, console: Console) -> Findings:
    """Install the peers, start a broker, let everybody take turns."""
    wanted = [name for name in args.only.split(",") if name] or (QUICK_PEERS if args.quick else NAMES)
    if unknown := set(wanted) - set(NAMES):
        return Findings(wrong=[f"unknown peers: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}"])
    contest = Contest(console, _sizes(args))
    crews = await contest.install([peer for peer in PEERS if peer.name in wanted])
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agent-broker-peers-")))
        subject = await stack.enter_async_context(fresh_broker())
        await contest.measure(stack, subject, crews, home=home)
        if STREAM_PART in wanted:
            await contest.measure_streams(subject, home=home)
    return findings(contest.measured)


def _sizes(args: argparse.Namespace) -> Sizes:
    sizes = QUICK if args.quick else FULL
    given = {name: getattr(args, name) for name in ("messages", "repeat", "seconds") if getattr(args, name)}
    return structs.replace(sizes, **given)


class Contest:
    """The turns, and what was measured so far."""

    def __init__(self, console: Console, sizes: Sizes) -> None:
        self._console = console
        self._sizes = sizes
        self._ids = [str(uuid4()) for _ in range(sizes.agents)]
        self.measured = Measured()

    async def install(self, peers: list[Peer]) -> list[tuple[Peer, Crew]]:
        """Install peers; those that cannot be are noted as skipped."""
        crews = []
        for peer in peers:
            self._say(f"installing {peer.title}")
            try:
                crews.append((peer, await peer.ready()))
            except install.Missing as missing:
                self._skip(peer.title, str(missing))
        return crews

    async def measure(
        self, stack: AsyncExitStack, subject: Subject, crews: list[tuple[Peer, Crew]], *, home: Path
    ) -> None:
        """Take turns flat out, then at a paced rate."""
        sizes, log = self._sizes, home / "peers.log"
        rig = await stack.enter_async_context(open_rig(subject, endpoints=sizes.endpoints))
        async with AgentClient(subject.api_url, subject.api_key) as client:
            registered = await register(client, agents=sizes.agents, ports=rig.ports, tag=token_hex(3))
        await rig.prepare(registered.fleet, registered.secrets)
        field = await open_field(stack, subject, ids=self._ids, endpoints=sizes.endpoints, log=log)
        for peer, crew in list(crews):
            if not await self._tune(field, peer, crew):
                crews.remove((peer, crew))
        await rig.run_product(sizes.few)
        for repeat in range(sizes.repeat):
            await self._ours(rig, paced=repeat == sizes.repeat - 1)
            for peer, crew in list(crews):
                try:
                    await self._theirs(field, peer, crew, paced=repeat == sizes.repeat - 1)
                except (Stuck, ChildFailed) as failed:
                    self._fail(peer, failed, log)
                    crews.remove((peer, crew))
        await rig.finish()

    async def measure_streams(self, subject: Subject, *, home: Path) -> None:
        """Take turns with the stream alone."""
        log, runs = home / "streams.log", self.measured.streams
        self._say("installing NATS")
        try:
            async with stream_part.open_streams(subject, home=home, log=log) as streams:
                for _ in range(self._sizes.repeat):
                    for stream in streams:
                        count = self._sizes.messages
                        found: StreamRun = await stream_part.run(stream, count=count, ids=self._ids, log=log)
                        runs.setdefault(stream.title, []).append(found)
                        self._say(f"{stream.title}: {found.acknowledged_per_second:,.0f}/s")
        except install.Missing as missing:
            self._skip("NATS JetStream", str(missing))

    async def _ours(self, rig: Rig, *, paced: bool) -> None:
        sizes = self._sizes
        one = await rig.run_product(sizes.messages)
        self.measured.ours.flat_out.append(one)
        self._say(f"Agent Broker: {one.per_second:,.0f}/s")
        if paced:
            self.measured.ours.paced = await rig.run_product(sizes.rate * sizes.seconds, rate=sizes.rate)

    async def _tune(self, field: Field, peer: Peer, crew: Crew) -> bool:
        """Try every setting of a peer; False where one of them fails."""
        few, entry = self._sizes.few, self.measured.entry(peer)
        if not self._sizes.tune:
            entry.tried[crew.settings[0].title] = 0.0
            return True
        for setting in crew.settings:
            try:
                async with field.turn(crew, setting) as turn:
                    await turn.run(few)
                    found = (await turn.run(few)).run.per_second
            except (Stuck, ChildFailed) as failed:
                self._fail(peer, failed, field.log)
                return False
            entry.tried[setting.title] = found
            self._say(f"trying {peer.title}, {setting.title}: {found:,.0f}/s")
        return True

    async def _theirs(self, field: Field, peer: Peer, crew: Crew, *, paced: bool) -> None:
        sizes, entry = self._sizes, self.measured.entry(peer)
        setting = next(one for one in crew.settings if one.title == entry.best)
        async with field.turn(crew, setting) as turn:
            await turn.run(sizes.few)
            outcome = await turn.run(sizes.messages)
            entry.add(outcome)
            self._say(f"{peer.title}: {outcome.run.per_second:,.0f}/s")
            if paced:
                entry.paced = (await turn.run(sizes.rate * sizes.seconds, rate=sizes.rate)).run

    def _fail(self, peer: Peer, failed: Exception, log: Path) -> None:
        self._say(tail(log))
        self.measured.wrong.append(f"{peer.title}: {failed}")

    def _skip(self, title: str, why: str) -> None:
        self.measured.skipped[title] = why
        self._console.print(f"skipped {title}: {why}", style="yellow", markup=False)

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)


if __name__ == "__main__":
    run(NAME, TITLE, main, add_arguments)
