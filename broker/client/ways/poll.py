"""Long-polling the inbox: plain HTTP, for where nothing else gets through.

What is in hand stays pending in the inbox and would end every long poll at once; so while there is something
in hand the inbox is looked at without waiting, now and then and whenever half of it is done. As many messages
again as may run at once wait here for their turn, so that handlers need not wait for a look.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from broker.client.backoff import Backoff
from broker.client.incoming import Arrival
from broker.client.outcomes import Again, Failed, Outcome, Processed
from broker.client.values import InboxPage, ReceivedMessage
from broker.client.ways.way import Place
from schema.errors import Conflict, NotFound, RateLimited, Unavailable
from schema.limits import INBOX_WAIT_MS_MAX, PAGE_ROWS_MAX

LOOK_S: Final = 0.5
"""Between two looks while something is in hand."""
WAIT_MS: Final = 25_000
"""One long poll; below what proxies usually cut, and below the broker's bound."""
assert WAIT_MS <= INBOX_WAIT_MS_MAX

log = logging.getLogger("broker.client")


class Poll:
    """See the module's docstring."""

    keeps_presence = False

    async def run(self, place: Place) -> None:
        backoff = Backoff()
        while not place.desk.is_closed:
            try:
                await self._turn(place)
                backoff.reset()
            except (Unavailable, RateLimited) as error:
                pause_s = backoff.next_s()
                log.warning("inbox: %s; again in %.1f s", error, pause_s)
                await asyncio.sleep(pause_s)

    async def acknowledge(self, place: Place, arrival: Arrival, outcome: Outcome) -> None:
        await set_status(place, arrival.id, outcome)

    async def _turn(self, place: Place) -> None:
        desk = place.desk
        if not desk.in_hand:
            self._take(place, await self._look(place, 2 * place.concurrency, wait_ms=WAIT_MS))
            return
        room = 2 * place.concurrency - desk.active
        if room > 0:
            self._take(place, await self._look(place, desk.in_hand + room, wait_ms=0))
        # Not `wait_for`: in CPython 3.11 it loses a cancellation that meets what it waits for.
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                while desk.active > place.concurrency or not desk.changed.is_set():
                    desk.changed.clear()
                    await desk.changed.wait()
        desk.changed.clear()

    async def _look(self, place: Place, limit: int, *, wait_ms: int) -> InboxPage:
        return await place.client.inbox.page(
            agent_id=place.agent_id, limit=min(limit, PAGE_ROWS_MAX), wait_ms=wait_ms
        )

    def _take(self, place: Place, page: InboxPage) -> None:
        for message in page.messages:
            place.desk.take(_arrival(message), place.tell)


async def set_status(place: Place, message_id: str, outcome: Outcome) -> None:
    """Set a message's status over HTTP. One that has ended otherwise meanwhile is let be.

    Raises: Unavailable, and what else the broker refuses.
    """
    with suppress(Conflict, NotFound):
        match outcome:
            case Processed(result):
                await place.client.messages.processed(message_id, result)
            case Failed(reason):
                await place.client.messages.failed(message_id, reason)
            case Again():
                return


def _arrival(message: ReceivedMessage) -> Arrival:
    return Arrival(
        id=message.message_id,
        message_type=message.type,
        content=message.content,
        metadata=message.metadata,
        from_agent_id=None if message.from_agent is None else message.from_agent.id,
        conversation_id=message.conversation_id,
        reply_to=message.reply_to,
        priority=message.priority,
        created_at=message.created_at,
        expires_at=message.expires_at,
    )
