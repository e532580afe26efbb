"""Endpoints that have something to send and may not yet: when each may.

A heap by that moment, so that a tick costs the endpoints whose time has come and not all that are in trouble:
a fleet of 100,000 that is away would otherwise take half of a core. What holds an endpoint back, its breaker
or its pace, can move its moment in either direction. Moved back, the endpoint is handed out too early,
refused, and put in anew; moved forward, it gets a second place, and the later one no longer counts.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

from workers.delivery.endpoint import Endpoint


class Troubled:
    """The endpoints of one shard that wait for their breaker or their pace."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Endpoint]] = []
        self._order = count()

    def put(self, endpoint: Endpoint, retry_ms: int) -> None:
        """Let an endpoint wait until then; it may wait already."""
        if endpoint.waits_until_ms and endpoint.waits_until_ms <= retry_ms:
            return
        endpoint.waits_until_ms = retry_ms
        heappush(self._heap, (retry_ms, next(self._order), endpoint))

    def due(self, now_ms: int) -> Iterator[Endpoint]:
        """Yield endpoints whose moment has come; each waits no more. Bounded by those that wait now: what is
        put back meanwhile comes next time."""
        for _ in range(len(self._heap)):
            if self._heap[0][0] > now_ms:
                return
            retry_ms, _, endpoint = heappop(self._heap)
            if endpoint.waits_until_ms == retry_ms:
                endpoint.waits_until_ms = 0
                yield endpoint
