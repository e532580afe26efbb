"""The publishers, a process of their own: natively and over HTTP, by name and by capability.

    python -m chaos.publishing LEDGER

Takes one JSON line on its standard input (what `Orders` holds), publishes until the input ends, then finishes
what has an unknown outcome and ends itself. Before a message is first published `attempt` is noted; then
`ack`, or `unknown` for each try of which nobody can say what became of it, or `refused`. A message of unknown
outcome is published again, under its id, until it is acknowledged or given up.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from msgspec import Struct

from broker.client.http import AgentClient
from broker.client.streams import StreamPublisher, message
from chaos.cast import SKILLS
from chaos.dying import die_with_parent
from chaos.notes import Notes
from schema.errors import BrokerError, RateLimited, Unavailable
from schema.ids import new_id

GIVEN_UP_S = 90.0
"""Far below the window in which the broker recognises a message it has seen."""
AGAIN_S = 0.3
HTTP_TIMEOUT_S = 4.0
EXPIRING_PART, SCHEDULED_PART = 0.08, 0.06
EXPIRES_S, SCHEDULED_S = (0.5, 20.0), (0.5, 8.0)
BATCH_MAX = 4
RETRIES = 8


class Orders(Struct):
    """`gateways`: the URLs over HTTP, each publisher has its own; `agents`: name -> id of those it publishes
    to; `senders`: those it publishes for; `mark`: what only bodies of this run hold."""

    redis_url: str
    gateways: list[str]
    key: str
    agents: dict[str, str]
    senders: list[str]
    mark: str
    seed: int
    rate: float
    publishers: int


class Drawn(Struct):
    """A message to publish, as both ways of publishing take it."""

    id: str
    to: str | None
    requirements: list[str] | None
    sender: str | None
    priority: int
    content: dict[str, object]
    metadata: dict[str, object]
    expires_at: datetime | None
    deliver_at: datetime | None


class Publisher:
    """One publisher, one message (or a few together) after the other."""

    def __init__(self, number: int, orders: Orders, notes: Notes, stopping: asyncio.Event) -> None:
        self._orders = orders
        self._notes = notes
        self._stopping = stopping
        self._chance = random.Random(f"{orders.seed}/publisher/{number}")
        self._count = 0
        self._number = number
        self._pause_s = orders.publishers / orders.rate

    async def run(self, publish: Callable[[Sequence[Drawn]], Awaitable[object]], batch_max: int) -> None:
        """Publish until told to stop."""
        while not self._stopping.is_set():
            count = self._chance.randint(1, batch_max)
            drawn = [self._draw() for _ in range(count)]
            for one in drawn:
                self._notes.append("attempt", id=one.id, to=one.to, requirements=one.requirements,
                                   expires_at=one.expires_at, sender=one.sender)  # fmt: skip
            await self._until_answered(publish, drawn)
            await asyncio.sleep(self._pause_s * count * 2 * self._chance.random())

    async def _until_answered(
        self, publish: Callable[[Sequence[Drawn]], Awaitable[object]], drawn: Sequence[Drawn]
    ) -> None:
        loop = asyncio.get_running_loop()
        given_up_s = loop.time() + GIVEN_UP_S
        while True:
            try:
                await publish(drawn)
            except (Unavailable, RateLimited) as error:
                self._note("unknown", drawn, code=error.code)
            except BrokerError as error:
                self._note("refused", drawn, code=error.code, said=error.message)
                return
            else:
                self._note("ack", drawn)
                return
            if loop.time() > given_up_s:
                self._note("given_up", drawn)
                return
            await asyncio.sleep(AGAIN_S * (0.5 + self._chance.random()))

    def _note(self, what: str, drawn: Sequence[Drawn], **more: object) -> None:
        for one in drawn:
            self._notes.append(what, id=one.id, **more)

    def _draw(self) -> Drawn:
        chance, now = self._chance, datetime.now(UTC)
        self._count += 1
        by_name = chance.random() < 0.7
        kind = chance.random()
        expires_at = now + timedelta(seconds=chance.uniform(*EXPIRES_S)) if kind < EXPIRING_PART else None
        scheduled = EXPIRING_PART <= kind < EXPIRING_PART + SCHEDULED_PART
        deliver_at = now + timedelta(seconds=chance.uniform(*SCHEDULED_S)) if scheduled else None
        return Drawn(
            id=new_id(),
            to=chance.choice(list(self._orders.agents.values())) if by_name else None,
            requirements=None if by_name else [chance.choice(SKILLS)],
            sender=chance.choice(self._orders.senders) if chance.random() < 0.5 else None,
            priority=chance.randint(1, 10),
            content={"publisher": self._number, "n": self._count, "mark": self._orders.mark},
            metadata={"max_retries": RETRIES},
            expires_at=expires_at,
            deliver_at=deliver_at,
        )


def over_http(client: AgentClient) -> Callable[[Sequence[Drawn]], Awaitable[object]]:
    """Return a way to publish one message through a gateway."""

    async def publish(drawn: Sequence[Drawn]) -> None:
        (one,) = drawn
        more: dict[str, Any] = {  # Any: fields of SendRequest
            name: value
            for name, value in (
                ("from_agent_id", one.sender),
                ("expires_at", one.expires_at),
                ("deliver_at", one.deliver_at),
            )
            if value is not None
        }
        await client.send(
            one.content,
            to=one.to,
            requirements=one.requirements,
            wait="accepted",
            id=one.id,
            priority=one.priority,
            metadata=one.metadata,
            **more,
        )

    return publish


def natively(redis_url: str) -> Callable[[Sequence[Drawn]], Awaitable[object]]:
    """Return a way to publish messages together, straight onto the streams."""
    opened: list[StreamPublisher] = []

    async def publish(drawn: Sequence[Drawn]) -> None:
        if not opened:
            opened.append(await StreamPublisher.open(redis_url))
        envelopes = []
        for one in drawn:
            envelope = message(
                one.content,
                to=one.to,
                requirements=one.requirements or (),
                sender=one.sender,
                priority=one.priority,
                metadata=one.metadata,
                expires_at=one.expires_at,
                deliver_at=one.deliver_at,
            )
            envelope.id = one.id
            envelopes.append(envelope)
        await opened[0].publish_many(envelopes)

    return publish


async def _run(notes: Notes) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    orders = msgspec.json.decode(await reader.readline(), type=Orders)
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(orders.publishers):
            publisher = Publisher(number, orders, notes, stopping)
            if number % 2:
                url = orders.gateways[number // 2 % len(orders.gateways)]
                client = AgentClient(url, orders.key, timeout_s=HTTP_TIMEOUT_S)
                group.create_task(publisher.run(over_http(client), 1))
            else:
                group.create_task(publisher.run(natively(orders.redis_url), BATCH_MAX))
        await reader.read()
        stopping.set()


if __name__ == "__main__":
    die_with_parent()
    uvloop.run(_run(Notes(Path(sys.argv[1]))))
