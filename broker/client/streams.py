"""Native publishing: straight onto the streams, without the gateway in between.

Thousands of messages a second from one process: messages of one loop turn share a command and an fsync.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, Self

from msgspec import Raw

from broker.core.admission import Shedder
from broker.core.signing import Signer
from broker.streams.connection import open_connection
from broker.streams.ingress import Publisher
from broker.streams.keys import DEPLOYMENT
from broker.streams.link import Link
from broker.streams.memory import memory_ratio
from schema.codec import decode_envelope, encode
from schema.errors import Overloaded, Unavailable
from schema.ids import new_id
from schema.limits import FAIR_RATE_PER_S, PRIORITY_DEFAULT
from schema.message import Envelope

MEMORY_S: Final = 1.0


class StreamPublisher:
    """Publishes messages natively. Use `async with await StreamPublisher.open(redis_url) as publisher`."""

    def __init__(self, publisher: Publisher, link: Link) -> None:
        self._publisher = publisher
        self._link = link
        self._shedder = Shedder()
        self._looked_s = 0.0
        self._looking: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, redis_url: str, *, publishing_key: str | None = None) -> Self:
        """Connect, and learn from the deployment how many shards it has.

        `publishing_key`: signs what is published, for deployments that require it. Every message must then
        come from the agent whose key it is (`sender` its id, its name, or nothing).

        Raises: Unavailable where Redis cannot be reached or no broker has ever been started on it; Rejected
        for what is no publishing key.
        """
        signer = None if publishing_key is None else Signer(publishing_key)
        async with await open_connection(redis_url, name="stream-publisher") as connection:
            shards = await connection.send("HGET", DEPLOYMENT, "shards")
        if shards is None:
            raise Unavailable("no broker has been started on this Redis")
        publisher = Publisher(
            redis_url,
            shards=int(shards),
            name="stream-publisher",
            fair_rate_per_s=FAIR_RATE_PER_S,
            signer=signer,
        )
        return cls(publisher, Link(redis_url, name="stream-publisher-memory"))

    async def publish(self, envelope: Envelope) -> str:
        """Publish one message and return its id once it is on disk. `message` makes envelopes.

        Raises: StreamsUnavailable (outcome unknown: publish the same envelope again); StreamsFull, Overloaded
        (it was not published: try again after a while).
        """
        self._check_memory()
        await self._publisher.publish(envelope)
        return envelope.id

    async def publish_many(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Publish messages together and return their ids once all are on disk. Raises: as `publish`."""
        self._check_memory()
        await self._publisher.publish_many(envelopes)
        return [envelope.id for envelope in envelopes]

    async def close(self) -> None:
        if self._looking is not None:
            await asyncio.wait((self._looking,))
        await self._publisher.close()
        await self._link.close()

    def _check_memory(self) -> None:
        """Refuse while Redis runs out of memory, as gateways do. It is asked once a second, beside what is
        published, and only while something is. Raises: Overloaded."""
        now_s = monotonic()
        if now_s - self._looked_s >= MEMORY_S and (self._looking is None or self._looking.done()):
            self._looked_s = now_s
            self._looking = asyncio.get_running_loop().create_task(self._look())
        if self._shedder.is_shedding:
            raise Overloaded("Redis has little memory left: nothing new is taken until some is free")

    async def _look(self) -> None:
        with suppress(Unavailable):  # then nothing can be published either, and that says why
            self._shedder.take(await memory_ratio(await self._link.get()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def message(
    content: Mapping[str, Any],  # Any: an agent's own JSON
    *,
    to: str | None = None,
    requirements: Iterable[str] = (),
    sender: str | None = None,
    message_type: str = "message",
    priority: int = PRIORITY_DEFAULT,
    conversation_id: str | None = None,
    reply_to: str | None = None,
    cause: Envelope | None = None,
    metadata: Mapping[str, Any] | None = None,
    expires_at: datetime | None = None,
    deliver_at: datetime | None = None,
) -> Envelope:
    """Make a message for a named recipient (`to`: id or name) or for any agent with the `requirements`.

    `cause`: the message whose handling makes the sender send this one: root and hop go on from there.

    Raises: Rejected, as the broker would quarantine it: out of bounds, text that cannot be stored.
    """
    envelope = Envelope(
        id=new_id(),
        from_agent_id=sender,
        to_agent_id=to,
        conversation_id=conversation_id,
        message_type=message_type,
        priority=priority,
        content=Raw(encode(content)),
        metadata=Raw(encode(metadata or {})),
        expires_at=expires_at,
        created_at=datetime.now(UTC),
        reply_to=reply_to,
        root_id=None if cause is None else cause.root_id or cause.id,
        hop=0 if cause is None else cause.hop + 1,
    )
    if to is None:
        envelope.requirements = list(requirements)
    if deliver_at is not None:
        envelope.deliver_at = deliver_at
    return decode_envelope(encode(envelope))
