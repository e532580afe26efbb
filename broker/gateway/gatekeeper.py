"""What a gateway lets through: is there memory, is the inbox full, has somebody stopped it, is it too fast?

Everything is answered from memory, which `run` keeps up to date beside the requests: how full Redis is (asked
once a second), full inboxes and loops (found by routers, asked for every quarter of a second), kill switches
(read again as soon as the registry stream says so, and twice a minute in any case). Without Redis or Postgres
it stays as it was. Rates are this gateway's own: several gateways let through as many times as much.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from broker.core.admission import Rates, Shedder
from broker.core.barriers import Barriers, Stop
from broker.settings import Settings
from broker.store import kill_switches
from broker.store.pool import Pool
from broker.streams.barriers import BarrierBook, Found
from broker.streams.link import Link
from broker.streams.memory import memory_ratio
from broker.streams.registry import SWITCHES
from broker.telemetry import logs, metrics
from schema.errors import BrokerError, InboxFull, Killed, LoopDetected, Overloaded, RateLimited
from schema.limits import RATE_BUCKETS_MAX
from schema.message import Envelope

MEMORY_S: Final = 1.0
BARRIERS_S: Final = 0.25
SWITCHES_S: Final = 30.0
FORGOTTEN_S: Final = 10.0
"""A full inbox nobody has said anything about for this long is taken for open: its router is gone."""
FULL_RETRY_S: Final = 2
BURST_S: Final = 2.0
"""A bucket holds what its rate gives in this time."""

_REFUSED: Final = {
    reason: metrics.REFUSED.child(reason=reason)
    for reason in ("inbox_full", "loop", "killed", "overloaded", "key_rate", "pair_rate")
}
_WHO_PUBLISHES: Final = {
    "key_rate": "this key publishes",
    "pair_rate": "this sender publishes to this recipient",
}
_SHEDDING: Final = metrics.SHEDDING.child()


class Gatekeeper:
    """Of one gateway. `run` until cancelled."""

    def __init__(
        self, pool: Pool, link: Link, settings: Settings, *, now_ms: Callable[[], Awaitable[int]]
    ) -> None:
        self.barriers = Barriers()
        self.book = BarrierBook(link)
        self._pool = pool
        self._link = link
        self._server_ms = now_ms
        self._shedder = Shedder()
        self._keys = _rates(settings.key_rate_per_s)
        self._pairs = _rates(settings.pair_rate_per_s)
        self.has_rates = self._keys.is_on or self._pairs.is_on
        self._loop = asyncio.get_running_loop()
        self._switched = asyncio.Event()
        self.on_switches: list[Callable[[], None]] = []
        """Called when what is switched off has changed."""

    # --- asked by requests ------------------------------------------------------------------------------

    def passes(self, sender: str | None, recipient: str | None) -> bool:
        """Tell whether nothing is against a message between these; else `check` says what."""
        barriers = self.barriers
        return not barriers.is_any or (
            recipient not in barriers.full and barriers.stops(sender, recipient, None) is None
        )

    def check(self, sender: str | None, recipient: str | None, root: str | None) -> None:
        """Let a message pass, or say what is against it. Raises: Killed, LoopDetected, InboxFull."""
        barriers = self.barriers
        if not barriers.is_any:
            return
        match barriers.stops(sender, recipient, root):
            case Stop.KILLED:
                _REFUSED["killed"].inc()
                raise Killed("an operator has switched this off")
            case Stop.LOOP:
                _REFUSED["loop"].inc()
                raise LoopDetected(
                    "these two agents were found keeping each other busy; an operator resets that"
                )
        if recipient is not None and recipient in barriers.full:
            _REFUSED["inbox_full"].inc()
            raise InboxFull(
                "the recipient's inbox holds as much as it may",
                retry_after_s=FULL_RETRY_S,
                field="to_agent_id",
            )

    def check_agent(self, agent_id: str | None) -> None:
        """Let an agent call, unless it is switched off. Raises: Killed."""
        if self.is_killed(agent_id):
            _REFUSED["killed"].inc()
            raise Killed("an operator has switched this agent off")

    def is_killed(self, agent_id: str | None) -> bool:
        """Tell whether an operator has switched this agent off."""
        return self.barriers.is_any and agent_id in self.barriers.switches.agents

    def check_memory(self) -> None:
        """Let something be published, unless Redis runs out of memory. Raises: Overloaded."""
        if self._shedder.is_shedding:
            _REFUSED["overloaded"].inc()
            raise Overloaded("Redis has little memory left: nothing new is taken until some is free")

    def counts(self, key: str | None) -> bool:
        """Tell whether messages of this key (None: an operator's) have to be counted."""
        return self.has_rates and key is not None

    def spend(self, key: str | None, envelope: Envelope) -> None:
        """Count a message against the rates of its key (None: an operator's, not counted) and of its pair.

        Raises: RateLimited; nothing was counted against them then.
        """
        excess = self._excess(key, envelope)
        if excess is not None:
            rate, wait_ms = excess
            _REFUSED[rate].inc()
            raise RateLimited(
                f"{_WHO_PUBLISHES[rate]} faster than it may", retry_after_s=max(1, math.ceil(wait_ms / 1_000))
            )

    def try_to_spend(self, key: str | None, envelope: Envelope) -> bool:
        """Do what `spend` does, but tell whether the message is within its rates; one that is not does not
        count as refused: it is `spend` that refuses."""
        return self._excess(key, envelope) is None

    def _excess(self, key: str | None, envelope: Envelope) -> tuple[str, float] | None:
        """Count a message; of one over a rate return which rate, and for how many ms, and count nothing."""
        if not self.has_rates or key is None:
            return None
        now_ms = self._loop.time() * 1_000
        if self._keys.is_on and (wait_ms := self._keys.take(key, now_ms)) > 0:
            return "key_rate", wait_ms
        sender, recipient = envelope.from_agent_id, envelope.to_agent_id
        if self._pairs.is_on and sender is not None and recipient is not None:
            wait_ms = self._pairs.take((sender, recipient), now_ms)
            if wait_ms > 0:
                self._keys.give_back(key)
                return "pair_rate", wait_ms
        return None

    # --- beside them ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep up to date until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_memory())
            group.create_task(self._follow_barriers())
            group.create_task(self._follow_switches())

    def on_change(self, agent_id: str | None) -> None:
        """Hear what the registry stream says (None: anything may have changed)."""
        if agent_id is None or agent_id == SWITCHES:
            self._switched.set()

    async def _follow_memory(self) -> None:
        while True:
            try:
                ratio = await memory_ratio(await self._link.get())
            except BrokerError:
                pass  # Nothing can be published now anyway; what holds afterwards is asked then.
            else:
                if self._shedder.take(ratio):
                    state = "gateway.sheds" if self._shedder.is_shedding else "gateway.sheds_no_more"
                    logs.warning(state, memory_percent=round(100 * ratio))
                _SHEDDING.set(self._shedder.is_shedding)
            await asyncio.sleep(MEMORY_S)

    async def _follow_barriers(self) -> None:
        heard_s = self._loop.time()
        while True:
            try:
                now_ms = await self._server_ms()  # first: what was read is not read again
                found = await self.book.read_changed()
            except BrokerError:
                found, now_ms = None, 0
            if found is not None:
                heard_s = self._loop.time()
                self._take(found, now_ms)
            elif self.barriers.full and self._loop.time() - heard_s > FORGOTTEN_S:
                self.barriers.fill(())
            await asyncio.sleep(BARRIERS_S)

    def _take(self, found: Found, now_ms: int) -> None:
        self.barriers.trip(found.trips)
        metrics.BARRIERS.child(kind="trip").set(len(found.trips))
        full = [agent_id for agent_id, until_ms in found.full.items() if until_ms > now_ms]
        self.barriers.fill(full)
        metrics.BARRIERS.child(kind="inbox").set(len(full))

    async def _follow_switches(self) -> None:
        while True:
            self._switched.clear()
            try:
                switches = await kill_switches.in_force(self._pool)
            except BrokerError as error:
                logs.warning("gateway.switches_unread", reason=error.message)
                await asyncio.sleep(MEMORY_S)
                continue
            if switches != self.barriers.switches:
                self.barriers.switch(switches)
                for listener in self.on_switches:
                    listener()
            metrics.BARRIERS.child(kind="switch").set(switches.count)
            try:
                async with asyncio.timeout(SWITCHES_S):
                    await self._switched.wait()
            except TimeoutError:
                pass


def _rates(per_s: int) -> Rates:
    return Rates(per_s=per_s, burst=per_s * BURST_S, buckets_max=RATE_BUCKETS_MAX)
