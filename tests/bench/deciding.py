"""Decisions by capability, in a process of its own: CPU time of each, and of building the directory.

No Redis and no Postgres: what is measured is `choose` on a directory in memory, as a router calls it. Beside
it the least anybody could do: a dictionary from requirement to a list of agents, and a random pick. Prints
one line of JSON.
"""

import argparse
import gc
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from broker.bench.processes import PROC
from broker.core.directory import Directory
from broker.core.explanation import brief
from broker.core.routing import Choice, NoCandidate, Quality, choose
from schema.agent import Agent
from schema.ids import new_id
from schema.message import Envelope

NOW_MS: Final = 1_800_000_000_000
SHARDS: Final = 2
OWN_CAPABILITIES: Final = 10
"""What an agent can do, at most half of all there is."""
RUNS: Final = 25
"""The least of so many runs counts: everything that disturbs makes them longer. So many that no slow spell of
the machine (a tenth of a second is usual) covers all of them."""
CHURN_EVERY: Final = 100
"""One change of the registry in so many messages: a hundred a second at 10,000 messages/s."""
COLD: Final = 200


class Deciding(msgspec.Struct, kw_only=True):
    """CPU microseconds a decision, unless the name says otherwise. `bare_us`: dictionary and random pick."""

    agents: int
    capabilities: int
    candidates: int
    bare_us: float
    one_us: float
    two_us: float
    cold_us: float
    churned_us: float
    explained_us: float
    build_s: float
    index_bytes: int


class TableLoads:
    """Loads as a worker keeps them: dictionaries."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        self._outstanding = {agent.id: random.randrange(4) for agent in agents}
        self._quality = {
            (agent.id, capability): Quality(0.95, 20.0)
            for agent in agents
            for capability in agent.capabilities[:1]
        }
        self._unknown = Quality()

    def outstanding(self, agent_id: str) -> int:
        return self._outstanding.get(agent_id, 0)

    def quality(self, agent_id: str, capability: str) -> Quality:
        return self._quality.get((agent_id, capability), self._unknown)


def make_agents(count: int, capabilities: int) -> list[Agent]:
    """Return agents that are there; each can do a few of all capabilities, at random."""
    names = [f"capability_{number}" for number in range(capabilities)]
    own = min(OWN_CAPABILITIES, max(1, capabilities // 2))
    return [
        Agent(
            id=new_id(),
            name=f"agent_{number}",
            endpoint=f"http://127.0.0.1:9000/{number}",
            capabilities=tuple(random.sample(names, own)),
            heartbeat_ms=NOW_MS - random.randrange(60_000),
        )
        for number in range(count)
    ]


def measure(count: int, capabilities: int, decisions: int) -> Deciding:
    """Measure one size."""
    agents = make_agents(count, capabilities)
    loads = TableLoads(agents)
    _settle()
    before = resident_bytes()
    began = time.process_time()
    directory = Directory()
    for agent in agents:
        directory.put(agent)
    build_s = time.process_time() - began
    index_bytes = max(0, resident_bytes() - before)
    envelope = Envelope(id=new_id(), from_agent_id=agents[0].id, message_type="task", priority=5)

    def decide(requirements: Sequence[str]) -> Choice | NoCandidate:
        return choose(
            envelope, requirements, directory, loads,
            shard=0, shards=SHARDS, now_ms=NOW_MS, chance=(random.random(), random.random()),
        )  # fmt: skip

    held = [name for agent in agents for name in agent.capabilities]
    ones = [[random.choice(held)] for _ in range(decisions)]
    pairs = (
        [random.sample(random.choice(agents).capabilities, 2) for _ in range(1_000)]
        if own_two(agents)
        else []
    )
    twos = [random.choice(pairs or ones) for _ in range(decisions)]
    directory.index.shard(0, SHARDS)
    _settle()
    cold_us = cpu_us(ones[:COLD], decide, runs=1)
    for requirements in (*ones, *twos):
        decide(requirements)
    turns = iter(range(sys.maxsize))

    def churned(requirements: Sequence[str]) -> None:
        decide(requirements)
        if next(turns) % CHURN_EVERY == 0:
            agent = random.choice(agents)
            directory.remove(agent.id)
            directory.put(agent)

    choices = [found for found in map(decide, ones) if isinstance(found, Choice)]
    return Deciding(
        agents=count,
        capabilities=capabilities,
        candidates=sum(one.candidates for one in choices) // max(1, len(choices)),
        bare_us=cpu_us(ones, partial(_bare, _table(agents))),
        one_us=cpu_us(ones, decide),
        two_us=cpu_us(twos, decide),
        cold_us=cold_us,
        churned_us=cpu_us(ones, churned),
        explained_us=cpu_us(choices, brief),
        build_s=build_s,
        index_bytes=index_bytes,
    )


def own_two(agents: Sequence[Agent]) -> bool:
    """Tell whether agents can do two things, so that somebody can be asked for both."""
    return len(agents[0].capabilities) > 1


def cpu_us(work: Sequence[object], call: Callable[..., object], *, runs: int = RUNS) -> float:
    """Return CPU microseconds per item, the least of so many runs."""
    taken = []
    for _ in range(runs):
        began = time.process_time_ns()
        for item in work:
            call(item)
        taken.append((time.process_time_ns() - began) / 1000 / max(1, len(work)))
    return min(taken)


def _table(agents: Sequence[Agent]) -> dict[str, list[Agent]]:
    table: dict[str, list[Agent]] = {}
    for agent in agents:
        for capability in agent.capabilities:
            table.setdefault(capability, []).append(agent)
    return table


def _bare(table: dict[str, list[Agent]], requirements: Sequence[str]) -> Agent:
    return random.choice(table[requirements[0]])


def _settle() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def resident_bytes() -> int:
    """Return what this process has in memory."""
    pages = int((PROC / "self" / "statm").read_text().split()[1])
    return pages * 4096


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--agents", type=int, required=True)
    arguments.add_argument("--capabilities", type=int, required=True)
    arguments.add_argument("--decisions", type=int, default=20_000)
    given = arguments.parse_args()
    random.seed(given.agents)
    found = measure(given.agents, given.capabilities, given.decisions)
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
