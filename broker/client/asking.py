"""Questions: a message that is sent and its answer waited for."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from broker.client.http import AgentClient
from broker.client.values import SentMessage
from schema.ids import new_id
from schema.limits import WAIT_MS_MAX

ENDED: Final = frozenset(("processed", "failed", "expired", "cancelled"))
TURN_MS: Final = 25_000
"""One request of a longer wait; below what proxies usually cut, and below the broker's bound."""
assert TURN_MS <= WAIT_MS_MAX


class NoAnswer(Exception):
    """The question has ended and nobody answers it any more; `message` says how."""

    def __init__(self, message: SentMessage) -> None:
        reason = f" ({message.status_reason})" if message.status_reason else ""
        super().__init__(f"no answer: the message is {message.status}{reason}")
        self.message = message


async def ask(
    client: AgentClient,
    content: Mapping[str, Any],  # an agent's own JSON
    *,
    timeout_s: float,
    **more: Any,  # what `messages.send` takes
) -> SentMessage:
    """Send a message and return its answer.

    Over HTTP whatever the agent's own way in is: an answer that came over a way whose every slot is taken by
    handlers that ask would never arrive.

    Raises: NoAnswer; TimeoutError; what `messages.send` does.
    """
    message_id = more.pop("id", None) or new_id()
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        left_ms = max(0, round((deadline - asyncio.get_running_loop().time()) * 1000))
        # Sent again under its id it is not sent twice: that waits on for the same answer.
        sent = await client.messages.send(
            content, id=message_id, wait="reply", timeout_ms=min(left_ms, TURN_MS), **more
        )
        if sent.reply is not None:
            return sent.reply
        if sent.status in ENDED:
            raise NoAnswer(sent)
        if left_ms <= TURN_MS:
            raise TimeoutError(f"no answer within {timeout_s} s")
