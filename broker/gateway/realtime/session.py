"""One live session: reads an agent's mailboxes as fast as its connection takes them, and no faster.

Theory of operation. `_speak` reads a page behind its cursors, says each message of it, and reads again until
nothing is left; then it waits to be woken, by a word of arrival, an acknowledgement that made room, or the
hub's sweep. `_listen` handles what the peer says. Whatever ends the session sets `over`; the first reason
stays, and is told to the peer in the end.

Invariants: no more than one page is in memory, and every message of it is sent before the next is read, so a
slow peer costs no memory; a cursor passes an entry only when it was handed to the connection; a socket has at
most `prefetch` messages that are not acknowledged. Nothing here takes an entry off a mailbox.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec
from msgspec import Struct

from broker.core.lanes import LaneWeights
from broker.gateway.channel import Channel, Gone, Kind
from broker.gateway.realtime import words
from broker.gateway.realtime.cursors import event_id
from broker.streams.mailbox import Cursors, MailboxEntry, Mailboxes
from broker.telemetry import metrics
from schema.errors import Unavailable
from schema.limits import STREAM_PAGE_BYTES_AIM, STREAM_PAGE_ENTRIES_MAX, WATCHED_CHANGES_MAX
from schema.message import LANES, Lane

HEARTBEAT_S: Final = 20
"""How often a client that only listens may count on the gateway to note that it is there."""
PING_S: Final = 15.0
"""An event stream that says nothing for longer looks dead to proxies."""
STALLED_S: Final = 60.0
"""A peer that takes nothing for this long is dropped."""
FAREWELL_S: Final = 1.0
AGAIN_S: Final = 1.0
"""Between two tries to read while Redis is away."""
FIRST_PAGE_ENTRIES: Final = 4
"""Per lane, before anything is known of how large this agent's messages are."""

_SENT: Final = {kind: metrics.STREAMED.child(kind=kind.value) for kind in Kind}


class End(Struct, frozen=True):
    """Why a session ends: for logs and metrics, for the peer (`event`), and as close code of a socket."""

    reason: str
    code: int = 1000
    event: str = "closing"


LEFT: Final = End("left")
TAKEN_OVER: Final = End("taken_over", 4409, "taken_over")
REVOKED: Final = End("revoked", 4401)
AGENT_GONE: Final = End("agent_gone", 4404)
HAS_ENDPOINT: Final = End("has_endpoint", 4410)
DRAINING: Final = End("draining", 1012)
STALLED: Final = End("stalled", 1008)


class Unacknowledged(Struct, gc=False):
    """A message that was handed to the peer: where it lies, and whom an answer goes to."""

    lane: Lane
    entry: str
    sender: str | None
    conversation_id: str | None


class _Head(Struct):
    id: str
    from_agent_id: str | None = None
    conversation_id: str | None = None


_head = msgspec.json.Decoder(_Head)

Answer = Callable[[bytes], Awaitable[bytes]]


class Session:
    """A session of one agent. `prefetch`: None, where the connection carries no acknowledgements."""

    def __init__(
        self,
        agent_id: str,
        session_id: str,
        mailboxes: Mailboxes,
        *,
        after: Cursors,
        prefetch: int | None,
    ) -> None:
        self.agent_id = agent_id
        self.session_id = session_id
        self.cursors = dict(after)
        self.unacknowledged: dict[str, Unacknowledged] = {}
        """By message; of a socket only."""
        self.ended: End | None = None
        self.idle = False
        """Whether it has read everything and waits."""
        self.held_bytes = 0
        """Bytes of the page in hand."""
        self._mailboxes = mailboxes
        self._prefetch = prefetch
        self._weights = LaneWeights()
        self._per_lane = FIRST_PAGE_ENTRIES
        self._changes: dict[str, bytes] = {}
        self._woken = asyncio.Event()
        self._over = asyncio.Event()

    # --- what others do to it -------------------------------------------------------------------------

    def wake(self) -> None:
        """Look for messages: something may have come."""
        self._woken.set()

    def end(self, why: End) -> None:
        """End, for the first reason that is given."""
        if self.ended is None:
            self.ended = why
        self._over.set()

    def tell(self, agent_id: str, change: bytes) -> None:
        """Say something about another agent; only the last of it where the peer is slow."""
        self._changes.pop(agent_id, None)
        if len(self._changes) >= WATCHED_CHANGES_MAX:
            del self._changes[next(iter(self._changes))]
        self._changes[agent_id] = change
        self._woken.set()

    def settle(self, message_ids: Iterable[str]) -> None:
        """Note that messages wait for no acknowledgement any more, which makes room for others."""
        for message_id in message_ids:
            self.unacknowledged.pop(message_id, None)
        self._woken.set()

    @property
    def room(self) -> int:
        """How many more messages the peer may be given."""
        return (
            STREAM_PAGE_ENTRIES_MAX if self._prefetch is None else self._prefetch - len(self.unacknowledged)
        )

    # --- its life -------------------------------------------------------------------------------------

    async def run(self, channel: Channel, answer: Answer) -> End:
        """Serve the connection to its end; return why it ended."""
        async with asyncio.TaskGroup() as group:
            tasks = (
                group.create_task(self._speak(channel)),
                group.create_task(self._listen(channel, answer)),
            )
            await self._over.wait()
            for task in tasks:
                task.cancel()
        assert self.ended is not None
        await self._part(channel, self.ended)
        return self.ended

    async def _speak(self, channel: Channel) -> None:
        try:
            await self._say(
                channel,
                words.opening(
                    channel.kind,
                    agent_id=self.agent_id,
                    session_id=self.session_id,
                    heartbeat_s=HEARTBEAT_S,
                ),
            )
            while True:
                self._woken.clear()
                while self._changes:
                    await self._say(channel, self._changes.pop(next(iter(self._changes))))
                if not await self._deliver_page(channel):
                    await self._pause(channel)
        except Gone:
            self.end(LEFT)

    async def _listen(self, channel: Channel, answer: Answer) -> None:
        try:
            while (data := await channel.receive()) is not None:
                await self._say(channel, await answer(data))
        except Gone:
            pass
        self.end(LEFT)

    async def _deliver_page(self, channel: Channel) -> bool:
        """Read a page and hand it over; tell whether there may be more, and room for it."""
        room = self.room
        if room <= 0:
            return False
        count = min(room, self._per_lane)
        try:
            page = await self._mailboxes.read(self.agent_id, self.cursors, count=count)
        except Unavailable:
            await asyncio.sleep(AGAIN_S)
            return True
        queues: dict[Lane, deque[MailboxEntry]] = {lane: deque() for lane in LANES}
        for entry in page:
            queues[entry.lane].append(entry)
        may_be_more = any(len(queue) == count for queue in queues.values())
        taken = self._weights.take(queues, room)
        self.held_bytes = sum(len(entry.message) for entry in page)
        if page:
            self._adapt(self.held_bytes // len(page))
        may_be_more = may_be_more or len(taken) < len(page)
        del page, queues
        for _, entry in taken:
            await self._deliver(channel, entry)
        self.held_bytes = 0
        return may_be_more

    async def _deliver(self, channel: Channel, entry: MailboxEntry) -> None:
        if channel.kind is Kind.SOCKET:
            head = _head.decode(entry.message)
            self.unacknowledged[head.id] = Unacknowledged(
                entry.lane, entry.entry, head.from_agent_id, head.conversation_id
            )
        cursors = self.cursors | {entry.lane: entry.entry}
        await self._say(channel, words.delivery(channel.kind, event_id(cursors), entry.message))
        self.cursors = cursors
        _SENT[channel.kind].inc()

    def _adapt(self, mean_bytes: int) -> None:
        """Read fewer entries of an agent whose messages are large, and slowly more again."""
        fits = STREAM_PAGE_BYTES_AIM // (len(LANES) * max(1, mean_bytes))
        self._per_lane = max(1, min(fits, 2 * self._per_lane, STREAM_PAGE_ENTRIES_MAX))

    async def _pause(self, channel: Channel) -> None:
        """Wait to be woken; an event stream says in between that it is alive."""
        self.idle = True
        try:
            while not self._woken.is_set():
                try:
                    async with asyncio.timeout(None if channel.kind is Kind.SOCKET else PING_S):
                        await self._woken.wait()
                except TimeoutError:
                    await self._say(channel, words.PING)
        finally:
            self.idle = False

    async def _say(self, channel: Channel, data: bytes) -> None:
        """Hand something to the connection, and wait while its peer is slow. Raises: Gone."""
        try:
            async with asyncio.timeout(STALLED_S):
                await channel.send(data)
        except TimeoutError:
            self.end(STALLED)
            channel.abort()
            raise Gone from None

    async def _part(self, channel: Channel, why: End) -> None:
        """Say why it ended, to a peer that may still listen."""
        if why is LEFT or why is STALLED:
            return
        try:
            async with asyncio.timeout(FAREWELL_S):
                await channel.send(words.said(channel.kind, why.event, reason=why.reason))
                await channel.close(why.code, why.reason)
        except Gone:
            return
        except TimeoutError:
            channel.abort()
