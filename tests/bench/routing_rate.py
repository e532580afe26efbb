"""Measures routing by capability: CPU microseconds per choice, load time and memory of the directory.

Not collected by pytest. Run: python tests/bench/routing_rate.py [--agents 100 10000 100000]
"""

import argparse
import gc
import random
import sys
import time
import tracemalloc

from broker.core.directory import Directory
from broker.core.explanation import brief
from broker.core.routing import Choice, Quality, choose
from schema.agent import Agent
from schema.ids import new_id
from schema.message import Envelope

DECISIONS = 20_000
NOW_MS = 1_800_000_000_000
SHARDS = 2


class TableLoads:
    """Loads as a worker would keep them: two dictionaries."""

    def __init__(self, agents: list[Agent]) -> None:
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
    names = [f"capability_{number}" for number in range(capabilities)]
    return [
        Agent(
            id=new_id(),
            name=f"agent_{number}",
            endpoint=f"http://127.0.0.1:9000/{number}",
            capabilities=tuple(random.sample(names, 10)),
            heartbeat_ms=NOW_MS - random.randrange(60_000),
        )
        for number in range(count)
    ]


def cpu_us(work: list, call) -> float:
    """Return the least of five runs, in CPU microseconds per item."""
    runs = []
    for _ in range(5):
        began = time.process_time_ns()
        for item in work:
            call(item)
        runs.append((time.process_time_ns() - began) / len(work) / 1000)
    return min(runs)


def measure(count: int, capabilities: int) -> None:
    agents = make_agents(count, capabilities)
    gc.collect()
    tracemalloc.start()
    directory = Directory()
    for agent in agents:
        directory.put(agent)
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # The bitmaps live in C memory that tracemalloc does not see; their size is their serialised size, about.
    bitmaps = sum(len(posting.slots.serialize()) for posting in directory.index._postings.values())

    began = time.process_time()
    directory = Directory()
    for agent in agents:
        directory.put(agent)
    load_s = time.process_time() - began

    loads = TableLoads(agents)
    required = [[f"capability_{random.randrange(capabilities)}"] for _ in range(DECISIONS)]
    pairs = [random.sample(random.choice(agents).capabilities, 2) for _ in range(1_000)]
    twice = [random.choice(pairs) for _ in range(DECISIONS)]
    envelope = Envelope(id=new_id(), from_agent_id=agents[0].id, message_type="task", priority=5)

    def route(requirements: list[str], shards: int = SHARDS) -> object:
        return choose(
            envelope, requirements, directory, loads,
            shard=0, shards=shards, now_ms=NOW_MS, chance=(random.random(), random.random()),
        )  # fmt: skip

    def nothing(requirements: list[str], shards: int = SHARDS) -> object:
        return (requirements, shards, random.random(), random.random())

    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    route(required[0])
    began = time.process_time()
    for requirements in required[:200]:
        route(requirements)
    cold = (time.process_time() - began) * 1e6 / 200
    overhead = cpu_us(required, nothing)
    choice = next(found for found in map(route, required) if isinstance(found, Choice))

    def churned(requirements: list[str]) -> None:
        route(requirements)
        churn_next()

    turn = iter(range(10**9))

    def churn_next() -> None:
        """One agent in a hundred messages comes or goes: 100 changes a second at 10,000 messages/s."""
        if next(turn) % 100 == 0:
            agent = agents[random.randrange(count)]
            directory.remove(agent.id)
            directory.put(agent)

    print(
        f"{count:>7} agents, {capabilities} capabilities: load {load_s:.2f} s, "
        f"memory {memory / 1e6:.1f} MB + bitmaps {bitmaps / 1e6:.1f} MB (without the agents themselves)"
    )
    print(
        f"        own shard {cpu_us(required, route) - overhead:.2f} us, "
        f"one shard {cpu_us(required, lambda r: route(r, 1)) - overhead:.2f}, "
        f"first 200 {cold - overhead:.2f}, "
        f"two capabilities {cpu_us(twice, route) - overhead:.2f}, "
        f"with churn {cpu_us(required, churned) - overhead:.2f}, "
        f"heard {cpu_us(agents[:DECISIONS], lambda a: directory.heard(a.id, NOW_MS + next(turn))):.2f}, "
        f"brief {cpu_us([choice] * DECISIONS, brief):.2f}"
    )


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--agents", type=int, nargs="+", default=[100, 10_000, 100_000])
    for count in arguments.parse_args().agents:
        measure(count, 50 if count <= 1_000 else 1_000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
