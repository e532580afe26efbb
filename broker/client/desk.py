"""The desk of an agent: messages in hand, so many at a time, each of them once.

Delivery is at least once, so the same message may come again: while its handler runs it is left alone; once
handled it is acknowledged again instead of handled again, for as long as the desk remembers it. It knows
nothing of how messages come or how the broker is told (`Tell`).

Invariants: no more than `concurrency` handlers run; a message has at most one handler at a time; an outcome
is remembered before the broker is told, so a message whose acknowledgement was lost is not worked on twice.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from broker.client.incoming import Arrival
from broker.client.outcomes import Again, Outcome
from schema.errors import BrokerError

REMEMBERED_MAX: Final = 10_000
"""Handled messages whose outcome is kept; the oldest are forgotten. Some 200 bytes each beside the result."""

NOT_BEGUN: Final = Again(1.0)
"""What becomes of a message whose turn comes after the desk has closed."""

Work = Callable[[Arrival, int], Awaitable[Outcome]]
"""Handles a message at its n-th attempt; never raises but when cancelled."""
Tell = Callable[[Arrival, Outcome], Awaitable[None]]
"""Tells the broker. Raises BrokerError when it could not: the message will come again."""

log = logging.getLogger("broker.client")


class Desk:
    """See the module's docstring. Use as an async context: leaving it ends what is still running."""

    def __init__(self, work: Work, *, concurrency: int) -> None:
        self._work = work
        self._room = asyncio.Semaphore(concurrency)
        self._taken: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._resting = 0
        self._done: OrderedDict[str, Outcome] = OrderedDict()
        self._closed = asyncio.Event()
        self.changed = asyncio.Event()
        """Set whenever there is more room. Whoever waits for it clears it first."""

    @property
    def in_hand(self) -> int:
        """How many messages taken run, wait for their turn, or for their next try."""
        return len(self._taken)

    @property
    def active(self) -> int:
        """How many of them do not wait for their next try."""
        return len(self._taken) - self._resting

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def holds(self, message_id: str) -> bool:
        return message_id in self._taken

    def take(self, arrival: Arrival, tell: Tell) -> None:
        """Work on a message in the background and tell the broker what came of it; once, while held."""
        if not self._closed.is_set() and arrival.id not in self._taken:
            task = asyncio.get_running_loop().create_task(self._see_through(arrival, tell))
            self._taken[arrival.id] = task

    async def outcome(self, arrival: Arrival, attempt: int) -> Outcome:
        """Work on a message and return what came of it; of one handled already, or at work, the same."""
        if (known := self._done.get(arrival.id)) is not None:
            return known
        running = self._running.get(arrival.id)
        if running is None:
            # A task of its own: whoever asked may go away (a webhook's caller does), the work goes on.
            running = asyncio.get_running_loop().create_task(self._run(arrival, attempt))
            self._running[arrival.id] = running
        return await asyncio.shield(running)

    async def drain(self, patience_s: float) -> None:
        """Begin nothing more; wait until what runs is finished and the broker told, or patience ends."""
        self._closed.set()
        if left := {*self._running.values(), *self._taken.values()}:
            await asyncio.wait(left, timeout=patience_s)

    async def close(self) -> None:
        """End what is still running. The broker hears nothing of it, so it comes again."""
        self._closed.set()
        left = {*self._running.values(), *self._taken.values()}
        for task in left:
            task.cancel()
        if left:
            log.warning("%d messages were not finished in time; they will come again", len(self._running))
            await asyncio.wait(left)

    # --- inside -------------------------------------------------------------------------------------------

    async def _see_through(self, arrival: Arrival, tell: Tell) -> None:
        attempt = 1
        try:
            while isinstance(outcome := await self.outcome(arrival, attempt), Again):
                if await self._closed_within(outcome.after_s):
                    return
                attempt += 1
            await tell(arrival, outcome)
        except BrokerError as error:
            log.warning(
                "message %s: the broker was not told (%s), it will come again", arrival.id, error.code
            )
        except Exception:
            # The top of a message: whatever is wrong with one must not end the agent.
            log.exception("message %s: the broker was not told", arrival.id)
        finally:
            del self._taken[arrival.id]
            self.changed.set()

    async def _closed_within(self, seconds: float) -> bool:
        self._resting += 1
        self.changed.set()
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return False
        finally:
            self._resting -= 1
        return True

    async def _run(self, arrival: Arrival, attempt: int) -> Outcome:
        try:
            async with self._room:
                if self._closed.is_set():
                    return NOT_BEGUN
                outcome = await self._work(arrival, attempt)
            if not isinstance(outcome, Again):
                self._remember(arrival.id, outcome)
            return outcome
        finally:
            del self._running[arrival.id]

    def _remember(self, message_id: str, outcome: Outcome) -> None:
        self._done[message_id] = outcome
        if len(self._done) > REMEMBERED_MAX:
            self._done.popitem(last=False)
