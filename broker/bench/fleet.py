"""Registers the agents of a benchmark, over HTTP as anybody would.

Agents of one run have names and capabilities of their own, so that a benchmark against a broker with other
agents, or after an earlier benchmark, pushes only to its own sink.
"""

import asyncio
from typing import Final

from msgspec import Struct

from broker.bench.payload import Fleet
from broker.client.http import AgentClient
from schema.agent import RegisteredAgent

SKILLS: Final = 50
"""Groups of capable agents: with 1,000 agents every choice is among 20."""
JOBS_MAX: Final = 10_000
"""Nobody is ever too busy: what is measured is the broker, not parking."""
REQUESTS_MAX: Final = 16


class Registered(Struct):
    """Who can be published to, and the signing secret of every endpoint's path."""

    fleet: Fleet
    secrets: dict[str, str]


async def register(client: AgentClient, *, agents: int, ports: list[int], tag: str) -> Registered:
    """Register so many agents, spread evenly over ports and skills. Raises: BrokerError."""
    gate = asyncio.Semaphore(REQUESTS_MAX)
    skills = [[f"bench-{tag}", f"skill-{tag}-{number}"] for number in range(min(SKILLS, agents))]

    async def one(number: int) -> RegisteredAgent:
        async with gate:
            return await client.register(
                f"bench-{tag}-{number}",
                endpoint=f"http://127.0.0.1:{ports[number % len(ports)]}{path_of(number)}",
                capabilities=skills[number % len(skills)],
                max_concurrent_jobs=JOBS_MAX,
            )

    registered = await asyncio.gather(*map(one, range(agents)))
    fleet = Fleet(agents=[agent.id for agent in registered], skills=skills)
    return Registered(fleet, {path_of(n): agent.signing_secret for n, agent in enumerate(registered)})


def path_of(number: int) -> str:
    """Return the path of an agent's endpoint; agents share ports, not paths."""
    return f"/hook/{number}"
