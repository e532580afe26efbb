"""Publishing: messages into the ingress lanes of their shards.

All messages of one loop turn that go to the same lane become one entry, one command, one shared fsync.
Returning from `publish` means Redis has appended the entry to its log (and, with `appendfsync always`, synced
it).

A lost connection leaves the outcome unknown; the same message is then published again, because the router
drops what it has seen: twice published is once routed, as long as both fall into the deduplication window.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from time import monotonic
from typing import Final

from broker.core.admission import FairShare
from broker.core.signing import Signer
from broker.streams.connection import Reply
from broker.streams.keys import Keys
from broker.streams.lanes import joined
from broker.streams.link import Link
from broker.streams.owed import owed
from schema.codec import encode
from schema.errors import BrokerError, StreamsUnavailable
from schema.ids import shard_of
from schema.limits import (
    FAIR_SHARE_S,
    MESSAGE_BYTES_MAX,
    PUBLISH_MESSAGES_PER_ENTRY_MAX,
    RATE_BUCKETS_MAX,
)
from schema.message import LANE_OF, Envelope, Lane

TRIES: Final = 4
"""Publishes of one message before its caller hears of the failure: enough for a restart of Redis."""
BACKOFF_S: Final = 0.1
IN_FLIGHT_PER_LANE_MAX: Final = 8
"""Commands under way per lane; what comes meanwhile shares the next entry."""


Written = tuple[str, int, bytes]
"""A message as it travels: what its shard goes by (its recipient; without one, its id), its priority, its
encoding."""
Run = tuple[str | None, Sequence[Written]]
"""Messages of one sender, in their order."""
_Answers = Sequence[asyncio.Future[None]]
"""What the callers of the messages in one entry wait on."""


class _Parcel:
    """Encoded messages of one call, on their way to one lane, and the future their caller waits on."""

    __slots__ = ("done", "fields", "messages")

    def __init__(self, messages: list[bytes], fields: tuple[str, ...], done: asyncio.Future[None]) -> None:
        self.messages = messages
        self.fields = fields
        """What stands in the entry beside the messages: only parcels with the same may share one."""
        self.done = done


class Publisher:
    """Publishes envelopes; many tasks may share one.

    `fair_rate_per_s`: of each sender; what it publishes beyond goes through the lowest ingress lane, behind
    what the others publish (its priority, and the lane of the mailbox, stay). 0: everything through its own.
    `keys`: how keys are made in this deployment. `signer`: signs every entry; for native publishers.
    """

    def __init__(
        self,
        url: str,
        *,
        shards: int,
        name: str = "publisher",
        fair_rate_per_s: int = 0,
        keys: type[Keys] = Keys,
        signer: Signer | None = None,
    ) -> None:
        self._link = Link(url, name=name)
        self._shards = shards
        self._signer = signer
        self._keys = [keys(shard) for shard in range(shards)]
        self._lanes: dict[tuple[int, Lane], _LaneQueue] = {}
        self._shares = FairShare(per_s=fair_rate_per_s, share_s=FAIR_SHARE_S, senders_max=RATE_BUCKETS_MAX)

    async def publish(self, envelope: Envelope, *, waiter: str | None = None) -> None:
        """Publish one message; return when it is on disk.

        Raises: StreamsUnavailable (it may or may not have been stored: publish the same id again),
        StreamsFull (it was not).
        """
        await self.begin(envelope, waiter=waiter)

    def begin(self, envelope: Envelope, *, waiter: str | None = None) -> asyncio.Future[None]:
        """Publish one message; the future is done when it is on disk, or has what `publish` raises."""
        return self.begin_written(envelope.from_agent_id, written(envelope), waiter=waiter)

    def begin_written(
        self, sender: str | None, message: Written, *, waiter: str | None = None
    ) -> asyncio.Future[None]:
        """Do what `begin` does, of a message that was written by its publisher."""
        fields = () if waiter is None else ("w", waiter)
        parcel = _Parcel([message[2]], fields, asyncio.get_running_loop().create_future())
        lane = LANE_OF[message[1]] if self._within(sender, 1) else Lane.LOW
        self._queue((shard_of(message[0], self._shards), lane)).add(parcel)
        return parcel.done

    async def publish_runs(self, runs: Iterable[Run]) -> None:
        """Publish messages together that were written by their publisher; return when all are on disk.
        Raises: as `publish`."""
        await self._hand_over(runs, ())

    async def publish_many(
        self, envelopes: Iterable[Envelope], *, waiter: str | None = None, known: bool = False
    ) -> None:
        """Publish messages together; return when all are on disk. `known`: they may be on record already, and
        taken back. Raises: as `publish`."""
        fields = () if waiter is None else ("w", waiter)
        await self._hand_over(runs_of(envelopes), (*fields, "o", "1") if known else fields)

    async def close(self) -> None:
        await self._link.close()

    async def _hand_over(self, runs: Iterable[Run], fields: tuple[str, ...]) -> None:
        parcels = self._parcels(runs, fields)
        if len(parcels) == 1:
            await parcels[0].done
            return
        # Every parcel is waited for, so that an error of one leaves no other unobserved.
        results = await asyncio.gather(*(parcel.done for parcel in parcels), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _parcels(self, runs: Iterable[Run], fields: tuple[str, ...]) -> list[_Parcel]:
        grouped: dict[tuple[int, Lane], list[bytes]] = defaultdict(list)
        shards = self._shards
        for sender, run in runs:
            within = self._within(sender, len(run))
            for number, (ref, priority, message) in enumerate(run):
                lane = LANE_OF[priority] if number < within else Lane.LOW
                grouped[shard_of(ref, shards), lane].append(message)
        loop = asyncio.get_running_loop()
        parcels = []
        for place, messages in grouped.items():
            for chunk in _chunks(messages):
                parcel = _Parcel(chunk, fields, loop.create_future())
                self._queue(place).add(parcel)
                parcels.append(parcel)
        return parcels

    def _within(self, sender: str | None, count: int) -> int:
        """Count messages of a sender; return how many of them, the first ones, are within its share."""
        if sender is None or not self._shares.is_on:
            return count
        return self._shares.within(sender, monotonic() * 1_000, count)

    def _queue(self, place: tuple[int, Lane]) -> "_LaneQueue":
        queue = self._lanes.get(place)
        if queue is None:
            shard, lane = place
            queue = self._lanes[place] = _LaneQueue(self._link, self._keys[shard].ingress[lane], self._signer)
        return queue


def written(envelope: Envelope) -> Written:
    """Return an envelope as it travels."""
    # A message without a recipient may go to any shard; its id decides, so that publishing it again goes
    # to the same one and is recognised there.
    return envelope.to_agent_id or envelope.id, envelope.priority, encode(envelope)


def runs_of(envelopes: Iterable[Envelope]) -> Iterable[Run]:
    """Yield envelopes as they travel."""
    for sender, messages in groupby(envelopes, key=attrgetter("from_agent_id")):
        yield sender, [written(envelope) for envelope in messages]


class _LaneQueue:
    """Parcels on their way to one ingress stream."""

    __slots__ = ("_in_flight", "_key", "_link", "_loop", "_parcels", "_scheduled", "_signer", "_tasks")

    def __init__(self, link: Link, key: str, signer: Signer | None) -> None:
        self._link = link
        self._key = key
        self._signer = signer
        self._parcels: list[_Parcel] = []
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._in_flight = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, parcel: _Parcel) -> None:
        self._parcels.append(parcel)
        self._schedule()

    def _schedule(self) -> None:
        if self._parcels and not self._scheduled and self._in_flight < IN_FLIGHT_PER_LANE_MAX:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        batch = self._next_batch()
        if batch:
            self._in_flight += 1
            self._send([parcel.done for parcel in batch], self._command(batch))
        self._schedule()

    def _next_batch(self) -> list[_Parcel]:
        """Take parcels that may share an entry: the same fields, within the bounds of an entry."""
        taken, messages, size = 0, 0, 0
        for parcel in self._parcels:
            messages += len(parcel.messages)
            size += sum(map(len, parcel.messages))
            shares = parcel.fields == self._parcels[0].fields
            if taken and (
                not shares or messages > PUBLISH_MESSAGES_PER_ENTRY_MAX or size > MESSAGE_BYTES_MAX
            ):
                break
            taken += 1
        batch, self._parcels = self._parcels[:taken], self._parcels[taken:]
        return batch

    def _command(self, batch: list[_Parcel]) -> list[str | bytes]:
        messages = [message for parcel in batch for message in parcel.messages]
        command: list[str | bytes] = ["XADD", self._key, "*", "m", joined(messages), *batch[0].fields]
        if self._signer is not None:
            command += self._signer.fields(messages)
        return command

    def _send(self, answers: _Answers, command: list[str | bytes]) -> None:
        """Send a command over the connection that is open, as a rule: that takes no task."""
        connection = self._link.connection
        if connection is None:
            self._insist(answers, command, tried=0)
            return
        try:
            connection.call(command, partial(self._answered, answers, command))
        except Exception as error:  # whatever it is, its callers must not wait for ever
            self._conclude(answers, error)

    def _answered(self, answers: _Answers, command: list[str | bytes], reply: Reply) -> None:
        if isinstance(reply, StreamsUnavailable):
            self._insist(answers, command, tried=1)
        else:
            self._conclude(answers, reply if isinstance(reply, BrokerError) else None)

    def _insist(self, answers: _Answers, command: list[str | bytes], *, tried: int) -> None:
        task = self._loop.create_task(self._send_until_answered(answers, command, tried))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_until_answered(self, answers: _Answers, command: list[str | bytes], tried: int) -> None:
        error: BrokerError | None = None
        try:
            with owed(answers):
                for attempt in range(tried, TRIES):
                    if attempt:
                        await asyncio.sleep(BACKOFF_S * 3 ** (attempt - 1))
                    try:
                        await (await self._link.get()).send(*command)
                    except StreamsUnavailable as failure:
                        error = failure
                    else:
                        error = None
                        break
        finally:
            self._conclude(answers, error)

    def _conclude(self, answers: _Answers, error: Exception | None) -> None:
        self._in_flight -= 1
        for answer in answers:
            if answer.done():  # its caller was cancelled
                continue
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)
                answer.exception()  # its caller may have gone away
        self._schedule()


def _chunks(messages: list[bytes]) -> Iterable[list[bytes]]:
    """Cut messages into what one entry may carry: a number of them, and bytes, unless one alone has more."""
    if sum(map(len, messages)) <= MESSAGE_BYTES_MAX:
        for start in range(0, len(messages), PUBLISH_MESSAGES_PER_ENTRY_MAX):
            yield messages[start : start + PUBLISH_MESSAGES_PER_ENTRY_MAX]
        return
    chunk: list[bytes] = []
    size = 0
    for message in messages:
        size += len(message)
        if chunk and (len(chunk) == PUBLISH_MESSAGES_PER_ENTRY_MAX or size > MESSAGE_BYTES_MAX):
            yield chunk
            chunk, size = [], len(message)
        chunk.append(message)
    if chunk:
        yield chunk
