"""Native publishing: straight onto the streams, without the gateway in between.

Thousands of messages a second from one process: messages of one loop turn share a command and an fsync.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from msgspec import Raw

from broker.streams.connection import open_connection
from broker.streams.ingress import Publisher
from broker.streams.keys import DEPLOYMENT
from schema.codec import decode_envelope, encode
from schema.errors import Unavailable
from schema.ids import new_id
from schema.limits import PRIORITY_DEFAULT
from schema.message import Envelope


class StreamPublisher:
    """Publishes messages natively. Use `async with await StreamPublisher.open(redis_url) as publisher`."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    @classmethod
    async def open(cls, redis_url: str) -> Self:
        """Connect, and learn from the deployment how many shards it has.

        Raises: Unavailable where Redis cannot be reached or no broker has ever been started on it.
        """
        async with await open_connection(redis_url, name="stream-publisher") as connection:
            shards = await connection.send("HGET", DEPLOYMENT, "shards")
        if shards is None:
            raise Unavailable("no broker has been started on this Redis")
        return cls(Publisher(redis_url, shards=int(shards), name="stream-publisher"))

    async def publish(self, envelope: Envelope) -> str:
        """Publish one message and return its id once it is on disk. `message` makes envelopes.

        Raises: StreamsUnavailable (outcome unknown: publish the same envelope again), StreamsFull.
        """
        await self._publisher.publish(envelope)
        return envelope.id

    async def publish_many(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Publish messages together and return their ids once all are on disk. Raises: as `publish`."""
        await self._publisher.publish_many(envelopes)
        return [envelope.id for envelope in envelopes]

    async def close(self) -> None:
        await self._publisher.close()

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
    metadata: Mapping[str, Any] | None = None,
    expires_at: datetime | None = None,
    deliver_at: datetime | None = None,
) -> Envelope:
    """Make a message for a named recipient (`to`: id or name) or for any agent with the `requirements`.

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
    )
    if to is None:
        envelope.requirements = list(requirements)
    if deliver_at is not None:
        envelope.deliver_at = deliver_at
    return decode_envelope(encode(envelope))
