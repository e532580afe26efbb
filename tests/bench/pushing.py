"""Three ways to post the same messages, each in this process: bare protocols, the push client, delivery.

Messages are made beforehand. Each way keeps so many in hand that nobody waits, and returns when all are over.
"""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from msgspec import Struct

from broker.bench.bare import Port
from broker.bench.payload import Fleet, compose
from broker.core.addresses import AddressPolicy
from broker.core.breaker import Breaker
from broker.streams.clock import ServerClock
from broker.streams.connection import Connection, open_connection
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys
from broker.streams.link import Link
from broker.streams.ownership import Lease
from broker.transport.client import Answer, Deadlines, Failure, PushClient
from schema.agent import Agent
from schema.codec import encode
from schema.message import Envelope, Lane, lane_of
from workers.delivery.delivery import Delivery, DeliveryRules
from workers.delivery.endpoint import STAMP_MS, Endpoint, stamp_of
from workers.delivery.items import Mailbox, item_of
from workers.delivery.replies import Replies
from workers.delivery.stats import DeliveryStats
from workers.delivery.survival import Survival

IN_HAND: Final = 400
"""Messages under way at a time: two for every port of the sink."""
BATCH: Final = 100
"""Messages handed over at once, as a route call would."""
POLICY: Final = ("127.0.0.0/8",)
FOREVER_S: Final = 1e9
SETTLED_S: Final = 0.005
"""Between two looks whether all is settled."""


class Message(Struct):
    """A message and whom it goes to."""

    agent: Agent
    envelope: Envelope
    body: bytes


class Posts(Protocol):
    """A way to post. `signs`: whether the sink finds a signature to check."""

    signs: bool

    async def post(self, messages: list[Message]) -> None:
        """Post all of these, and return when the last is over. Raises: RuntimeError for one that failed."""


def make_messages(agents: list[Agent], count: int) -> list[Message]:
    """Return the benchmark's messages, all with a recipient."""
    fleet = Fleet(agents=[agent.id for agent in agents], skills=[["skill", "research"]])
    by_id = {agent.id: agent for agent in agents}
    made = []
    for number in range(count):
        envelope = compose(number, 0, fleet)
        envelope.root_id = envelope.id
        envelope.to_agent_id = envelope.to_agent_id or random.choice(fleet.agents)
        made.append(Message(by_id[envelope.to_agent_id], envelope, encode(envelope)))
    return made


class _InTurn(ABC):
    """Posts one more for each that is over. A way says how one is posted."""

    def __init__(self) -> None:
        self._left: list[Message] = []
        self._open = 0
        self._over: asyncio.Future[None] | None = None

    async def post(self, messages: list[Message]) -> None:
        self._over = asyncio.get_running_loop().create_future()
        self._left, self._open = messages[::-1], len(messages)
        for _ in range(min(IN_HAND, len(messages))):
            self.post_one(self._left.pop())
        await self._over

    @abstractmethod
    def post_one(self, message: Message) -> None:
        """Post one; `ended` follows when it is over."""

    def ended(self) -> None:
        self._open -= 1
        if self._left:
            self.post_one(self._left.pop())
        elif not self._open and self._over is not None:
            self._over.set_result(None)


class BarePosts(_InTurn):
    """Protocols that write and read, four to a port."""

    signs = False

    def __init__(self, agents: list[Agent]) -> None:
        super().__init__()
        numbers = {agent.id: int((agent.endpoint or "").split(":")[2].split("/")[0]) for agent in agents}
        self._ports = {number: Port(number, self._answered) for number in numbers.values()}
        self._port_of = {agent_id: self._ports[number] for agent_id, number in numbers.items()}

    @classmethod
    @asynccontextmanager
    async def opened(cls, agents: list[Agent]) -> AsyncIterator["BarePosts"]:
        posts = cls(agents)
        try:
            for port in posts._ports.values():
                await port.open()
            yield posts
        finally:
            for port in posts._ports.values():
                port.close()

    def post_one(self, message: Message) -> None:
        self._port_of[message.agent.id].post(message.envelope.id, message.body, None)

    def _answered(self, _: object) -> None:
        self.ended()


class ClientPosts(_InTurn):
    """The push client; heads are made and signed by `prepare`."""

    signs = True

    def __init__(self, agents: list[Agent], client: PushClient) -> None:
        super().__init__()
        self._client = client
        self._deadlines = Deadlines()
        self._endpoints = {agent.id: Endpoint(agent, Breaker()) for agent in agents}
        self._heads: dict[str, bytes] = {}

    @classmethod
    @asynccontextmanager
    async def opened(cls, agents: list[Agent]) -> AsyncIterator["ClientPosts"]:
        client = PushClient(policy=AddressPolicy(POLICY))
        try:
            yield cls(agents, client)
        finally:
            await client.aclose()

    def prepare(self, messages: list[Message], *, now_s: int) -> None:
        """Make the heads."""
        self._heads = {}
        stamp = stamp_of(now_s * STAMP_MS)
        for one in messages:
            endpoint = self._endpoints[one.agent.id]
            item = item_of(Mailbox(endpoint, "", Lane.NORMAL), "", one.envelope, one.body, "")
            self._heads[one.envelope.id] = endpoint.head(item, stamp)

    def post_one(self, message: Message) -> None:
        target = self._endpoints[message.agent.id].target
        assert target is not None
        head = self._heads[message.envelope.id]
        self._client.post(target, head, message.body, self._deadlines, self._done, message)

    def _done(self, _: Message, outcome: Answer | Failure) -> None:
        if not isinstance(outcome, Answer):
            raise RuntimeError(f"a push failed: {outcome.message}")
        self.ended()


class DeliveredPosts:
    """The delivery half of a worker, handed messages as by its router; what it settles was never stored."""

    signs = True

    def __init__(self, delivery: Delivery, clock: ServerClock, connection: Connection) -> None:
        self._delivery = delivery
        self._clock = clock
        self._connection = connection
        self._entry = 0

    @classmethod
    @asynccontextmanager
    async def opened(cls, agents: list[Agent], redis_url: str) -> AsyncIterator["DeliveredPosts"]:
        clock, publisher = ServerClock(), Publisher(redis_url, shards=1)
        client = PushClient(policy=AddressPolicy(POLICY))
        by_id = {agent.id: agent for agent in agents}
        heard: dict[str, int] = {}
        lease = Lease(shard=0, trade="deliver", value="bench", ends_at_s=FOREVER_S)
        async with await open_connection(redis_url, name="bench") as connection:
            await connection.send("SET", Keys(0).owner("deliver"), lease.value)
            await clock.measure(connection)
            delivery = Delivery(
                connection,
                Keys(0),
                lease,
                client=client,
                clock=clock,
                find_agent=by_id.get,
                another=lambda _message, _tried: False,
                rules=DeliveryRules(deadlines=Deadlines()),
                stats=DeliveryStats(pushed=heard.__setitem__),
                replies=Replies(publisher),
                survival=Survival(Link(redis_url, name="bench")),
            )
            running = asyncio.ensure_future(delivery.run())
            try:
                yield cls(delivery, clock, connection)
            finally:
                delivery.close()
                running.cancel()
                await asyncio.wait((running,))
                await client.aclose()
                await publisher.close()

    async def post(self, messages: list[Message]) -> None:
        delivery = self._delivery
        for start in range(0, len(messages), BATCH):
            # Delivery tells its router only of its own quota, which is larger.
            while not delivery.is_ready or self._in_hand > IN_HAND - BATCH:  # noqa: ASYNC110
                await asyncio.sleep(0)
            now_ms = self._clock.now_ms()
            for one in messages[start : start + BATCH]:
                self._hand_over(one, now_ms)
        # Nobody is told when a message is settled: the record is where one would look.
        while delivery.in_flight or any(box.held for box in delivery.room.mailboxes.values()):  # noqa: ASYNC110
            await asyncio.sleep(SETTLED_S)
        await self._connection.send("DEL", Keys(0).ledger)

    @property
    def _in_hand(self) -> int:
        return self._delivery.in_flight + self._delivery.room.queued

    def _hand_over(self, one: Message, now_ms: int) -> None:
        mailbox = self._delivery.expect(one.agent, lane_of(one.envelope.priority))
        assert mailbox is not None
        self._entry += 1
        self._delivery.accept(mailbox, f"1-{self._entry}", one.envelope, one.body, now_ms)
