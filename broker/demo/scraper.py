"""A scraper: takes tasks at its endpoint, works on them for a while, and sends results back as messages.

It answers a push at once and works afterwards, as an agent should whose work takes longer than a request.
Deliveries are at least once, so it remembers the ids it has taken. Sometimes a first attempt goes wrong, as
its part says.
"""

import asyncio
import random
import socket
from typing import Final

from broker.client.http import AgentClient
from broker.demo.actor import Brief, Counts, play
from broker.demo.cast import HANG_S, Part, mishap
from broker.demo.inbox import Pushed, serve
from schema.errors import BrokerError

HEARTBEAT_S: Final = 30.0
TRIES: Final = 10
TRY_AGAIN_S: Final = 0.2


class Scraper:
    """One scraper's desk: what it has taken and what it is working on."""

    def __init__(self, client: AgentClient, brief: Brief, part: Part, counts: Counts) -> None:
        self._client = client
        self._id = brief.agent_id
        self._part = part
        self._counts = counts
        self._taken: set[str] = set()
        self._work: asyncio.Queue[Pushed] = asyncio.Queue()

    async def take(self, message: Pushed, attempt: int) -> int:
        """Answer one push."""
        trouble = mishap(self._part, attempt=attempt, chance=random.random())
        if trouble == "refuse":
            self._counts.refused += 1
            return 500
        if trouble == "hang":
            self._counts.hung += 1
            await asyncio.sleep(HANG_S)
            return 503
        if message.id in self._taken:
            self._counts.repeated += 1
        else:
            self._taken.add(message.id)
            self._counts.got += 1
            self._work.put_nowait(message)
        return 202

    async def work(self) -> None:
        """Do one task after the other, for ever."""
        while True:
            message = await self._work.get()
            await asyncio.sleep(random.uniform(*self._part.work_ms) / 1000)
            try:
                await self._hand_in(message)
            except BrokerError:
                self._counts.trouble += 1
            else:
                self._counts.worked += 1

    async def beat(self) -> None:
        """Say that we are here, for ever."""
        while True:
            try:
                await self._client.heartbeat(self._id)
            except BrokerError:
                self._counts.trouble += 1
            await asyncio.sleep(HEARTBEAT_S)

    async def _hand_in(self, message: Pushed) -> None:
        url = message.content["parameters"]["url"]
        result = {"url": url, "found": random.randint(0, 60), "by": self._part.name}
        await self._insist(message.id, result)
        await self._client.send(
            result, to=message.from_agent_id, message_type="scraping_results", reply_to=message.id
        )

    async def _insist(self, message_id: str, result: dict[str, object]) -> None:
        """Set the status; the record of a message may be some milliseconds behind its delivery."""
        for last in range(TRIES):
            try:
                await self._client.processed(message_id, result)
            except BrokerError:
                if last == TRIES - 1:
                    raise
                await asyncio.sleep(TRY_AGAIN_S)
            else:
                return


async def act(brief: Brief, counts: Counts, listening: socket.socket, stop: asyncio.Event) -> None:
    """Play a scraper until told to stop."""
    assert brief.part is not None
    async with AgentClient(brief.api_url, brief.api_key) as client:
        scraper = Scraper(client, brief, brief.part, counts)
        loop = asyncio.get_running_loop()
        duties = [loop.create_task(scraper.beat())]
        duties += [loop.create_task(scraper.work()) for _ in range(brief.part.hands)]
        await serve(listening, brief.secret, scraper.take, stop)
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)


if __name__ == "__main__":
    play(act)
