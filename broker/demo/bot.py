"""The chat bot: asks its tasks at an even pace and counts the answers that come to its endpoint."""

import asyncio
import socket
import sys
from time import monotonic

from broker.client.http import AgentClient
from broker.demo.actor import Brief, Counts, play
from broker.demo.cast import MAX_RETRIES, TASK_TIMEOUT_S, Task
from broker.demo.inbox import Pushed, serve
from schema.errors import BrokerError


class Bot:
    """What it has asked and when."""

    def __init__(self, client: AgentClient, counts: Counts) -> None:
        self._client = client
        self._counts = counts
        self._asked_at: dict[str, float] = {}

    async def ask(self, task: Task) -> None:
        """Send one task; one that the broker refuses is told and counted."""
        began = monotonic()
        try:
            message = await self._client.send(
                task.content,
                to=task.to,
                requirements=list(task.requirements),
                message_type="task",
                priority=task.priority,
                metadata={"timeout": TASK_TIMEOUT_S, "max_retries": MAX_RETRIES},
            )
        except BrokerError as error:
            sys.stderr.write(f"task {task.number} was not taken: {error.message} ({error.code})\n")
            self._counts.trouble += 1
            return
        self._asked_at[message.id] = began
        self._counts.asked.append(message.id)

    async def ask_all(self, tasks: list[Task], per_s: int) -> None:
        """Send every task at its time, without waiting for those before it."""
        start = monotonic()
        async with asyncio.TaskGroup() as group:
            for number, task in enumerate(tasks):
                await asyncio.sleep(start + number / per_s - monotonic())
                group.create_task(self.ask(task))

    async def hear(self, message: Pushed, _attempt: int) -> int:
        """Take one answer; anything else that comes is fine too."""
        if message.reply_to is not None:
            # An answer can overtake the reply to our own request; it is then timed from now.
            asked_at = self._asked_at.get(message.reply_to, monotonic())
            self._counts.answers.append((message.reply_to, round((monotonic() - asked_at) * 1000)))
            self._counts.got += 1
        return 200


async def act(brief: Brief, counts: Counts, listening: socket.socket, stop: asyncio.Event) -> None:
    """Ask, listen, until told to stop."""
    async with AgentClient(brief.api_url, brief.api_key) as client, asyncio.TaskGroup() as group:
        bot = Bot(client, counts)
        asking = group.create_task(bot.ask_all(brief.tasks, brief.tasks_per_s))
        await serve(listening, brief.secret, bot.hear, stop)
        asking.cancel()


if __name__ == "__main__":
    play(act)
