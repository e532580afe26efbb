"""What the keeper's gauges show: sums over the shards it holds now, and the agents with the most waiting.

Several keepers show different shards, so a deployment's figures are the sums over its keepers.
"""

from itertools import chain
from typing import Final

from msgspec import Struct, field

from broker.telemetry import metrics

DEPTHS: Final = ("ingress", "mailbox", "due", "later", "parked", "ledger")


class Depths(Struct):
    """How much waits in one shard: by queue, and for the agents with the most."""

    queues: dict[str, int] = field(default_factory=dict)
    agents: dict[str, int] = field(default_factory=dict)
    memory_ratio: float = 0.0
    """Memory in use by its limit, of the Redis the shard lies on."""


class Board:
    """The latest figures of each shard, and their sums in the metrics."""

    def __init__(self) -> None:
        self._depths: dict[int, Depths] = {}
        self._online: dict[int, int] = {}
        self._gauges = {queue: metrics.QUEUE_DEPTH.child(queue=queue) for queue in DEPTHS}
        self._online_gauge = metrics.AGENTS_ONLINE.child()

    def show_depths(self, shard: int, depths: Depths) -> None:
        """Replace a shard's depths."""
        self._depths[shard] = depths
        self._sum_depths()

    def show_online(self, shard: int, agents: int) -> None:
        """Replace a shard's number of agents online."""
        self._online[shard] = agents
        self._online_gauge.set(sum(self._online.values()))

    def clear(self, shard: int) -> None:
        """Forget a shard: another keeper shows it now."""
        self._depths.pop(shard, None)
        self._online.pop(shard, None)
        self._sum_depths()
        self._online_gauge.set(sum(self._online.values()))

    def _sum_depths(self) -> None:
        metrics.REDIS_MEMORY.child().set(
            max((depths.memory_ratio for depths in self._depths.values()), default=0)
        )
        for queue, gauge in self._gauges.items():
            gauge.set(sum(depths.queues.get(queue, 0) for depths in self._depths.values()))
        # An agent's mailboxes all lie in one shard, so no agent is in two of these.
        tops = (depths.agents.items() for depths in self._depths.values())
        metrics.AGENT_QUEUE_DEPTH.replace(dict(chain.from_iterable(tops)))
