"""Mailboxes from outside the worker that owns them: looking into them, dropping an entry whose message ended
elsewhere, handing them over when the agent is given an endpoint."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from broker.core.parking import Signature
from broker.streams.connection import Reply
from broker.streams.keys import NATIVE_GROUP, Keys, mailbox_owner, taken_back
from broker.streams.link import Link
from broker.streams.moves import LANE_NUMBER
from broker.streams.scripts import ACTIVATE, DISCARD, PRESENT, WITHDRAW
from schema.ids import shard_of
from schema.message import LANES, Lane

START: Final = "0-0"
BEYOND_MAX: Final = 300
"""Streams in one look for what lies beyond cursors."""
WITHDRAWN_MS: Final = 600_000
"""How long routers know of a message taken back: one on its way to a mailbox is routed long before."""
FIND_PAGE: Final = 100
FIND_PAGES_MAX: Final = 20
"""Where the record does not say where a message lies, so many pages of its mailbox are looked through."""

Cursors = Mapping[Lane, str]
"""How far each lane was read: the id of the last entry."""


class MailboxEntry(Struct, gc=False):
    """One message in a mailbox: its entry, the envelope as JSON."""

    lane: Lane
    entry: str
    message: bytes


class Mailboxes:
    """Access to mailboxes by agent."""

    def __init__(self, link: Link, *, shards: int) -> None:
        self._link = link
        self._shards = shards
        self._keys = [Keys(shard) for shard in range(shards)]

    async def discard(self, agent_id: str, lane: Lane, entry_id: str) -> bool:
        """Drop the entry of a message that is finished; tell whether it was there. Harmless when repeated.

        Raises: StreamsUnavailable.
        """
        keys = self._keys_of(agent_id)
        connection = await self._link.get()
        count = await connection.evaluate(
            DISCARD,
            (keys.mailbox(agent_id, lane), keys.expiry, keys.active, keys.doorbell),
            entry_id,
            NATIVE_GROUP,
        )
        return bool(count)

    async def find(self, agent_id: str, lane: Lane, message_id: str) -> str | None:
        """Return the entry of a message the record does not place; None where it is not among the first ones.

        Raises: StreamsUnavailable.
        """
        mailbox, head = self._keys_of(agent_id).mailbox(agent_id, lane), _head(message_id)
        connection, cursor = await self._link.get(), "-"
        for _ in range(FIND_PAGES_MAX):
            page: Reply = await connection.send("XRANGE", mailbox, cursor, "+", "COUNT", FIND_PAGE)
            for entry, fields in page:
                if fields[1].startswith(head):
                    found: str = entry.decode()
                    return found
            if len(page) < FIND_PAGE:
                break
            cursor = f"({page[-1][0].decode()}"
        return None

    async def withdraw(
        self,
        message_id: str,
        *,
        message_round: int = 0,
        needs: Signature | None = None,
        entry: str | None = None,
    ) -> bool:
        """Drop a message that is finished and waits outside mailboxes; tell whether it did. `message_round`:
        the one that is finished; the next may be on its way. `needs`, `entry`: of one that may be parked. On
        whichever shard, and from whichever ingress lane it came (a flood's is not that of its priority):
        neither is on record.

        Raises: StreamsUnavailable.
        """
        parked = "" if needs is None or entry is None else entry
        every = () if needs is None else [replace(needs, lane=lane).key for lane in LANES]
        connection, gone = await self._link.get(), 0
        for keys in self._keys:
            streams = [keys.parked_stream(signature) for signature in every]
            gone += await connection.evaluate(
                WITHDRAW,
                (keys.later, keys.later_messages, keys.expiry, keys.withdrawn, *streams),
                *(parked, _head(message_id), taken_back(message_id, message_round), WITHDRAWN_MS),
                *(LANE_NUMBER[lane] + message_id for lane in LANES),
            )
        return gone > 0

    async def activate(self, agent_id: str) -> int:
        """Hand what waits for an agent over to the delivery owner: it has an endpoint from now on. Return how
        many lanes hold something. To be called when the record says so; harmless when repeated.

        Raises: StreamsUnavailable.
        """
        keys = self._keys_of(agent_id)
        connection = await self._link.get()
        mailboxes = (keys.mailbox(agent_id, lane) for lane in LANES)
        holding: int = await connection.evaluate(ACTIVATE, (keys.active, *mailboxes), NATIVE_GROUP)
        return holding

    async def is_active(self, agent_id: str) -> bool:
        """Tell whether the delivery owner serves any mailbox of the agent. Raises: StreamsUnavailable."""
        keys = self._keys_of(agent_id)
        connection = await self._link.get()
        found = await connection.send_many(
            [("ZSCORE", keys.active, keys.mailbox(agent_id, lane)) for lane in LANES]
        )
        return any(score is not None for score in found)

    async def read(self, agent_id: str, after: Cursors, *, count: int) -> list[MailboxEntry]:
        """Return up to `count` entries of each lane behind its cursor, high first, in order within a lane.

        Raises: StreamsUnavailable.
        """
        keys = self._keys_of(agent_id)
        connection = await self._link.get()
        replies = await connection.send_many(
            [
                ("XRANGE", keys.mailbox(agent_id, lane), f"({after[lane]}", "+", "COUNT", count)
                for lane in LANES
            ]
        )
        return [
            MailboxEntry(lane, entry.decode(), fields[1])
            for lane, reply in zip(LANES, replies, strict=True)
            for entry, fields in reply
        ]

    async def find_beyond(self, cursors: Sequence[tuple[str, Cursors]]) -> set[str]:
        """Return those of the agents for whom something lies beyond their cursors, cheaply.

        Of a cluster, what lies on a node that is away is not found. Raises: StreamsUnavailable where nothing
        answers.
        """
        by_shard: dict[int, list[tuple[str, str]]] = {}
        for agent_id, after in cursors:
            shard = shard_of(agent_id, self._shards)
            keys = self._keys[shard]
            by_shard.setdefault(shard, []).extend((keys.mailbox(agent_id, one), after[one]) for one in LANES)
        connection = await self._link.get()
        looks: list[tuple[str | int, ...]] = []
        for places in by_shard.values():
            for start in range(0, len(places), BEYOND_MAX):
                batch = places[start : start + BEYOND_MAX]
                streams = [key for key, _ in batch] + [cursor for _, cursor in batch]
                looks.append(("XREAD", "COUNT", 1, "STREAMS", *streams))
        replies: list[Reply] = await connection.send_each(looks)
        answered = [reply for reply in replies if not isinstance(reply, BaseException)]
        if replies and not answered:
            raise replies[0]
        return {mailbox_owner(key.decode())[0] for reply in answered for key, _ in reply or ()}

    async def present(self, agent_id: str, entries: Sequence[tuple[Lane, str]]) -> list[bool]:
        """Tell for each entry whether it is still in its mailbox. Raises: StreamsUnavailable."""
        keys = self._keys_of(agent_id)
        connection = await self._link.get()
        mailboxes = [keys.mailbox(agent_id, lane) for lane, _ in entries]
        reply = await connection.evaluate(PRESENT, mailboxes, *(entry for _, entry in entries))
        return [bool(there) for there in reply]

    def _keys_of(self, agent_id: str) -> Keys:
        return self._keys[shard_of(agent_id, self._shards)]


def _head(message_id: str) -> bytes:
    """Return how a message begins, as it lies in a stream."""
    return b'{"id":"%b"' % message_id.encode()
