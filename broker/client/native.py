"""Reading an inbox natively: straight off the agent's mailboxes, as a consumer of their group.

For agents that take thousands of messages a second. Several processes of one agent may share the work, each
under a consumer name of its own; what one of them had in hand when it died is claimed by another after a
while. Every message comes at least once, and not again once it is acknowledged, in this way or any other.

No write is repeated blindly: after a failed read, what this consumer was given meanwhile is among its pending
entries, which are read first; a failed acknowledgement is the caller's to repeat, which is harmless.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any, Final, Self

import msgspec
from msgspec import UNSET, Raw, Struct

from broker.streams.acknowledgement import Acknowledged, Acknowledger
from broker.streams.connection import Connection, Reply, open_connection
from broker.streams.keys import DEPLOYMENT, NATIVE_GROUP, Keys
from broker.streams.link import Link
from broker.streams.mailbox import START, Mailboxes
from broker.streams.presence import Presence
from schema.codec import decode_stored_envelope, encode
from schema.errors import BrokerError, HasEndpoint, StreamsUnavailable, Unavailable
from schema.ids import parse_id, shard_of
from schema.message import LANES, Envelope, Json, Lane, Status

READ_ENTRIES_MAX: Final = 32
"""Messages of one lane in one read."""
HELD_MAX: Final = 256
"""Messages handed out and not acknowledged; at it, reading waits for an acknowledgement."""
BLOCK_MS: Final = 2_000
BEAT_S: Final = 20.0
CLAIM_AFTER_MS: Final = 60_000
"""A consumer that has not renewed what it holds for this long is dead: three beats."""
CLAIM_S: Final = 15.0
RECONNECT_S: Final = 0.5

_NEW: Final = ">"


class NativeMessage(Struct, frozen=True):
    """A message, and where it lies until it is acknowledged."""

    envelope: Envelope
    lane: Lane
    entry: str

    @property
    def id(self) -> str:
        return self.envelope.id

    @property
    def content(self) -> Json:
        """The content, decoded."""
        content: Json = msgspec.json.decode(self.envelope.content)
        return content


class NativeInbox:
    """The inbox of one agent. Use `async with await NativeInbox.open(url, agent_id) as inbox`, and then
    `async for message in inbox`."""

    def __init__(self, redis_url: str, agent_id: str, *, shards: int, consumer: str) -> None:
        self._url = redis_url
        self._agent_id = agent_id
        self._consumer = consumer
        self._link = Link(redis_url, name="native-inbox")
        self._presence = Presence(self._link, shards=shards)
        self._mailboxes = Mailboxes(self._link, shards=shards)
        self._acknowledger = Acknowledger(self._link, shards=shards, now_ms=self._presence.now_ms)
        keys = Keys(shard_of(agent_id, shards))
        self._streams = {lane: keys.mailbox(agent_id, lane) for lane in LANES}
        self._held: set[tuple[Lane, str]] = set()
        self._room = asyncio.Event()
        self._reader: Connection | None = None
        self._beating: asyncio.Task[None] | None = None
        self._is_closed = False

    @classmethod
    async def open(cls, redis_url: str, agent_id: str, *, consumer: str | None = None) -> Self:
        """Connect, and join the agent's group. `consumer`: a name that this process keeps over restarts (its
        host's, unless said), and that no other process has.

        Raises: Rejected for an id that is none; Unavailable where Redis cannot be reached or no broker has
        ever been started on it.
        """
        async with await open_connection(redis_url, name="native-inbox") as connection:
            shards = await connection.send("HGET", DEPLOYMENT, "shards")
        if shards is None:
            raise Unavailable("no broker has been started on this Redis")
        name = consumer or socket.gethostname()
        inbox = cls(redis_url, parse_id(agent_id), shards=int(shards), consumer=name)
        await inbox._join()
        await inbox._presence.heartbeat(inbox._agent_id)
        inbox._beating = asyncio.create_task(inbox._beat())
        return inbox

    async def __aiter__(self) -> AsyncIterator[NativeMessage]:
        """Yield messages as they come, the urgent ones of each read first, until closed.

        At most `HELD_MAX` are handed out without an acknowledgement. Raises: HasEndpoint when the agent was
        given an endpoint, and its messages are pushed from now on.
        """
        while not self._is_closed:
            try:
                key = self._streams[Lane.NORMAL]
                async with await open_connection(self._url, name="native-inbox", key=key) as reader:
                    self._reader = reader
                    async for message in self._read(reader):
                        yield message
            except StreamsUnavailable:
                if not self._is_closed:
                    await asyncio.sleep(RECONNECT_S)
            except BrokerError as error:
                if not error.message.startswith(("NOGROUP", "UNBLOCKED")):
                    raise
                await self._rejoin()

    async def acknowledge(
        self,
        message: NativeMessage,
        status: Status = Status.DELIVERED,
        *,
        result: Any = None,  # any JSON
        reason: str | None = None,
    ) -> bool:
        """Say that a message is done: it will not come again. False: it was acknowledged before, or expired.

        Raises: StreamsUnavailable: whether it was done is unknown; asking again is harmless.
        """
        done = Acknowledged(
            message.lane,
            message.entry,
            message.id,
            status,
            result=UNSET if result is None else Raw(encode(result)),
            reason=reason,
        )
        (was_there,) = await self._acknowledger.acknowledge(self._agent_id, [done])
        self._let_go([(message.lane, message.entry)])
        return was_there

    async def close(self) -> None:
        """Leave. What is not acknowledged comes again: to this consumer first, to others after a while."""
        self._is_closed = True
        self._room.set()
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating
        if self._reader is not None:
            await self._reader.close()
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- reading --------------------------------------------------------------------------------------

    async def _read(self, reader: Connection) -> AsyncIterator[NativeMessage]:
        """Yield what this consumer holds already, what dead ones held, and then what is new."""
        loop = asyncio.get_running_loop()
        async for message in self._pending(reader):
            yield message
        claim_at = loop.time()
        while not self._is_closed:
            if loop.time() >= claim_at:
                claim_at = loop.time() + CLAIM_S
                async for message in self._claimed(reader):
                    yield message
            await self._wait_for_room()
            for message in await self._group_read(reader, dict.fromkeys(LANES, _NEW), block_ms=BLOCK_MS):
                yield message

    async def _pending(self, reader: Connection) -> AsyncIterator[NativeMessage]:
        after = dict.fromkeys(LANES, START)
        while True:
            before = dict(after)
            await self._wait_for_room()
            for message in await self._group_read(reader, after):
                yield message
            if after == before:
                return

    async def _claimed(self, reader: Connection) -> AsyncIterator[NativeMessage]:
        for lane, stream in self._streams.items():
            cursor = START
            while True:
                await self._wait_for_room()
                cursor, entries, *_ = await reader.send(
                    *("XAUTOCLAIM", stream, NATIVE_GROUP, self._consumer, CLAIM_AFTER_MS, cursor),
                    *("COUNT", READ_ENTRIES_MAX),
                )
                for message in self._take(lane, entries):
                    yield message
                if cursor == START.encode():
                    break

    async def _group_read(
        self, reader: Connection, after: dict[Lane, str], *, block_ms: int | None = None
    ) -> list[NativeMessage]:
        """Read behind ids (pending entries), moving them on, or what is new."""
        block = () if block_ms is None else ("BLOCK", block_ms)
        reply = await reader.send(
            *("XREADGROUP", "GROUP", NATIVE_GROUP, self._consumer, "COUNT", READ_ENTRIES_MAX, *block),
            *("STREAMS", *self._streams.values(), *after.values()),
        )
        lanes = {stream.encode(): lane for lane, stream in self._streams.items()}
        messages: list[NativeMessage] = []
        for stream, entries in reply or ():
            lane = lanes[stream]
            if entries and after[lane] != _NEW:
                after[lane] = entries[-1][0].decode()
            gone = [entry for entry, fields in entries if fields is None]
            if gone:  # Acknowledged by another way while they were pending here.
                await reader.send("XACK", stream, NATIVE_GROUP, *gone)
            messages += self._take(lane, entries)
        return messages

    def _take(self, lane: Lane, entries: Iterable[Reply]) -> list[NativeMessage]:
        """Return the messages among entries that are not in hand already, and note that they are now."""
        taken = []
        for entry, fields in entries:
            place = (lane, entry.decode())
            if fields is not None and place not in self._held:
                self._held.add(place)
                taken.append(NativeMessage(decode_stored_envelope(fields[1]), *place))
        return taken

    async def _wait_for_room(self) -> None:
        while len(self._held) >= HELD_MAX and not self._is_closed:
            self._room.clear()
            await self._room.wait()

    def _let_go(self, places: Iterable[tuple[Lane, str]]) -> None:
        self._held.difference_update(places)
        self._room.set()

    # --- the group ------------------------------------------------------------------------------------

    async def _join(self) -> None:
        """Make the group where there is none, at the start: nothing that waits is passed over."""
        connection = await self._link.get()
        for stream in self._streams.values():
            try:
                await connection.send("XGROUP", "CREATE", stream, NATIVE_GROUP, "0", "MKSTREAM")
            except StreamsUnavailable:
                raise
            except BrokerError as error:
                if not error.message.startswith("BUSYGROUP"):
                    raise

    async def _rejoin(self) -> None:
        """Make the group again, unless it went because the messages are pushed now. Raises: HasEndpoint."""
        try:
            if await self._mailboxes.is_active(self._agent_id):
                raise HasEndpoint("the agent was given an endpoint: its messages are pushed from now on")
            await self._join()
        except StreamsUnavailable:
            await asyncio.sleep(RECONNECT_S)

    async def _beat(self) -> None:
        """Say that the agent is there, and that what it holds is worked on; forget what ended elsewhere."""
        while True:
            await asyncio.sleep(BEAT_S)
            with suppress(BrokerError):
                await self._presence.heartbeat(self._agent_id)
                await self._renew()

    async def _renew(self) -> None:
        held = list(self._held)
        if not held:
            return
        there = await self._mailboxes.present(self._agent_id, held)
        self._let_go(place for place, is_there in zip(held, there, strict=True) if not is_there)
        connection = await self._link.get()
        for lane, stream in self._streams.items():
            entries = [entry for in_lane, entry in self._held if in_lane is lane]
            if entries:
                await connection.send("XCLAIM", stream, NATIVE_GROUP, self._consumer, 0, *entries, "JUSTID")
