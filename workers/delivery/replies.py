"""Answers in the body of a 2xx: `"reply": {...}` goes back to the sender as a message of type `response`.

Published before the delivery is settled, under an id made from the message's own: a crash in between sends
the message again, the agent answers again, and the second reply is dropped as a duplicate of the first.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from msgspec import UNSET

from broker.streams.ingress import Publisher
from broker.telemetry import logs
from schema.errors import BrokerError
from schema.message import Envelope
from workers.delivery.items import Item
from workers.delivery.outcome import Outcome

RESPONSE_TYPE: Final = "response"
RETRY_S: Final = 1.0


class Replies:
    """Publishes replies in the background of one worker process."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        # Not a TaskGroup: replies outlive the callback that starts them, and a failed one ends nothing else.
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, item: Item, outcome: Outcome, *, then: Callable[[], None]) -> None:
        """Publish the reply to an item, which has a sender, then go on with `then`."""
        task = asyncio.get_running_loop().create_task(self._publish(item, outcome, then))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up the replies under way; their messages are not settled."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def _publish(self, item: Item, outcome: Outcome, then: Callable[[], None]) -> None:
        envelope = _envelope(item, outcome)
        while True:
            try:
                await self._publisher.publish(envelope)
                break
            except BrokerError as error:
                # Until it is out the message is not settled: should this process end, its next owner sends
                # it again, and the agent answers again.
                logs.warning("delivery.reply_failed", message_id=item.id, reason=error.code)
                await asyncio.sleep(RETRY_S)
        then()


def _envelope(item: Item, outcome: Outcome) -> Envelope:
    assert outcome.reply is not UNSET
    return Envelope(
        id=str(uuid5(NAMESPACE_URL, f"agent-broker:reply:{item.id}:{item.round}")),
        from_agent_id=item.mailbox.endpoint.agent.id,
        to_agent_id=item.sender,
        conversation_id=item.conversation_id,
        message_type=RESPONSE_TYPE,
        content=outcome.reply,
        created_at=datetime.now(UTC),
        reply_to=item.id,
        root_id=item.root_id,
        hop=item.hop + 1,
    )
