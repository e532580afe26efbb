"""Names to vetted addresses: the only door between a host and a socket.

Has threads of its own, because asyncio's default pool is shared and a few dead name servers fill it up. They
are daemons: one stuck in `getaddrinfo` must not hold up the end of the process, as an executor's would.
Invariant: every address that leaves here was judged by the policy in this very call, cached or not.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

from broker.core.addresses import Address, AddressPolicy, judge, judge_all
from broker.transport.endpoint import literal_of
from broker.transport.outcome import FailureKind, Trouble, clock_ms
from schema.limits import (
    RESOLVER_ADDRESSES_MAX,
    RESOLVER_CACHE_MS,
    RESOLVER_NAMES_MAX,
    RESOLVER_THREADS_MAX,
    RESOLVER_WAIT_MS_MAX,
)

Found = tuple[Address, ...]
# Rows as socket.getaddrinfo gives them; only the last column, (address, port, ...), is read.
Lookup = Callable[..., Iterable[tuple[Any, ...]]]  # Any: the rows are heterogeneous
_Answer = Found | Trouble


class Resolver:
    """Resolves hosts within a time limit, keeps answers for a while, judges every time.

    Made inside a running loop. `getaddrinfo` is a parameter so that tests can be the name server.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        getaddrinfo: Lookup = socket.getaddrinfo,
        wait_ms: int = RESOLVER_WAIT_MS_MAX,
        cache_ms: int = RESOLVER_CACHE_MS,
    ) -> None:
        self._policy: Final = policy
        self._getaddrinfo: Final = getaddrinfo
        self._wait_ms: Final = wait_ms
        self._cache_ms: Final = cache_ms
        self._loop: Final = asyncio.get_running_loop()
        self._cache: Final[dict[str, tuple[int, Found]]] = {}
        self._looking: Final[dict[str, asyncio.Future[_Answer]]] = {}
        self._jobs: Final[SimpleQueue[str | None]] = SimpleQueue()
        self._threads = 0

    async def resolve(self, host: str, *, limit_ms: int) -> Found | Trouble:
        """Return the vetted addresses of a host in the order they should be tried, or why there are none."""
        literal = literal_of(host)
        if literal is not None:
            fault = judge(literal, self._policy)
            return (literal,) if fault is None else Trouble(FailureKind.DENIED, fault)
        cached = self._cache.get(host)
        if cached is not None and cached[0] > clock_ms():
            return self._vet(cached[1])
        answer = await self._look_up(host, min(limit_ms, self._wait_ms))
        return answer if isinstance(answer, Trouble) else self._vet(answer)

    def close(self) -> None:
        """Let the threads end when they are done with what they are at."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _vet(self, addresses: Found) -> Found | Trouble:
        kind = judge_all(addresses, self._policy)
        if kind is None:
            return addresses
        return Trouble(FailureKind.DENIED, f"the name leads to an address that is {kind}")

    async def _look_up(self, host: str, limit_ms: int) -> _Answer:
        looking = self._looking.get(host)
        if looking is None:
            looking = self._looking[host] = self._loop.create_future()
            self._jobs.put(host)
            self._add_thread()
        # wait, not wait_for: the lookup is shared, so one impatient caller must not cancel it.
        finished, _ = await asyncio.wait((looking,), timeout=limit_ms / 1000)
        if not finished:
            return Trouble(FailureKind.RESOLVE, f"the name did not resolve within {limit_ms} ms")
        return looking.result()

    def _add_thread(self) -> None:
        if self._threads < min(RESOLVER_THREADS_MAX, len(self._looking)):
            self._threads += 1
            Thread(target=self._work, name="resolver", daemon=True).start()

    def _work(self) -> None:
        while (host := self._jobs.get()) is not None:
            answer = self._ask(host)
            # The loop may be closed by now; then nobody is waiting either.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._learn, host, answer)

    def _ask(self, host: str) -> _Answer:
        try:
            rows = self._getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found = tuple(dict.fromkeys(ip_address(row[4][0]) for row in rows))
        except (OSError, ValueError) as error:
            # gaierror's own words name no host; ValueError is a name that IDNA or ip_address refuses.
            text = error.strerror if isinstance(error, OSError) else None
            return Trouble(FailureKind.RESOLVE, f"the name does not resolve: {text or 'not a valid name'}")
        if not 0 < len(found) <= RESOLVER_ADDRESSES_MAX:
            return Trouble(FailureKind.RESOLVE, f"the name resolves to {len(found)} addresses")
        return found

    def _learn(self, host: str, answer: _Answer) -> None:
        if not isinstance(answer, Trouble):
            # Entries are in order of age (re-inserted when renewed), so the first is the oldest.
            self._cache.pop(host, None)
            while len(self._cache) >= RESOLVER_NAMES_MAX:
                del self._cache[next(iter(self._cache))]
            self._cache[host] = (clock_ms() + self._cache_ms, answer)
        self._looking.pop(host).set_result(answer)
