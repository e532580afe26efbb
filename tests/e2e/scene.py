"""One test's agents, publishers and outside ledger on a running broker."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
from cluster import async_client_of
from outside_ledger import ENDED, OutsideLedger
from receivers import Gate, Received, Receivers, Script, ok
from whole_broker import PATIENCE_S

from broker.client.http import AgentClient
from broker.client.streams import StreamPublisher
from broker.streams.keys import Keys
from schema.agent import RegisteredAgent
from schema.errors import NotFound, Unavailable
from schema.ids import new_id, shard_of
from schema.message import LANES, Envelope

AGAIN_S = 0.05
"""A publisher's pause before it publishes the same message again."""


class Place:
    """Where a broker is. What `up` wrote into running.json, or what the test itself started."""

    def __init__(self, api_url: str, api_key: str, redis_url: str, database_url: str) -> None:
        self.api_url = api_url
        self.api_key = api_key
        self.redis_url = redis_url
        self.database_url = database_url


async def eventually(found: Callable[[], Awaitable[object]], *, what: Callable[[], str] | str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not await found():
        assert time.monotonic() < deadline, f"waited in vain: {what if isinstance(what, str) else what()}"
        await asyncio.sleep(0.05)


class Scene:
    """Agents of one test. Everything sent through it is on the ledger."""

    def __init__(self, place: Place, stack: AsyncExitStack) -> None:
        self.place = place
        self.ledger = OutsideLedger()
        self.receivers = Receivers(self.ledger.note)
        self.agents: list[RegisteredAgent] = []
        self._mark = uuid4().hex[:8]
        self._stack = stack
        self._publisher: StreamPublisher | None = None

    async def open(self) -> None:
        place, enter = self.place, self._stack.enter_async_context
        self.client = await enter(AgentClient(place.api_url, place.api_key, timeout_s=30))
        self.redis = await enter(async_client_of(place.redis_url))
        await enter(self.receivers)

    async def move(self, place: Place) -> None:
        """Follow the broker to where it is now."""
        self.place = place
        await self.redis.aclose()
        self.redis = await self._stack.enter_async_context(async_client_of(place.redis_url))
        self._publisher = None

    def named(self, word: str) -> str:
        """Return a name (or a capability) no other test uses."""
        return f"{word}-{self._mark}"

    async def agent(self, word: str, script: Script | None = ok, **more: Any) -> RegisteredAgent:
        """Register an agent with an endpoint of the script's; without one it pulls."""
        name = self.named(word)
        endpoint = None if script is None else self.receivers.endpoint(name, script)
        agent = await self.client.register(name, endpoint=endpoint, **more)
        self.receivers.trust(name, agent.signing_secret)
        self.agents.append(agent)
        return agent

    async def held(self, *gates: Gate, at_least: int) -> list[Received]:
        """Wait until so many requests are held open at the gates; return them."""

        async def enough() -> bool:
            return sum(len(gate.held) for gate in gates) >= at_least

        await eventually(enough, what=f"{at_least} requests held open")
        return [request for gate in gates for request in gate.held]

    # --- publishing ---------------------------------------------------------------------------------------

    async def send(self, to: str | None = None, **more: Any) -> str:
        """Send over HTTP, again with the same id until it is acknowledged; return the id."""
        message_id = more.pop("id", None) or new_id()
        self.ledger.attempted.add(message_id)
        # None says what another does: the same again and again would be a loop.
        given = {"content": {"from": self._mark, "id": message_id}, "wait": "accepted", **more}

        async def sent() -> bool:
            try:
                await self.client.send(to=to, id=message_id, **given)
            except Unavailable:
                return False
            return True

        await eventually(sent, what="an acknowledgement over HTTP")
        self.ledger.acknowledge([message_id])
        return message_id

    async def publish(self, *envelopes: Envelope) -> list[str]:
        """Publish natively, again until it is acknowledged; return the ids."""
        if self._publisher is None:
            self._publisher = await StreamPublisher.open(self.place.redis_url)
            self._stack.push_async_callback(self._publisher.close)
        publisher = self._publisher
        self.ledger.attempted.update(envelope.id for envelope in envelopes)

        async def published() -> bool:
            try:
                await publisher.publish_many(envelopes)
            except Unavailable:
                return False
            return True

        await eventually(published, what="an acknowledgement of Redis")
        ids = [envelope.id for envelope in envelopes]
        self.ledger.acknowledge(ids)
        return ids

    @asynccontextmanager
    async def load(self, *publishers: Callable[[int], Awaitable[object]]) -> AsyncIterator[None]:
        """Let each publisher publish one message after the other while the context is open."""
        enough = asyncio.Event()

        async def go_on(publish: Callable[[int], Awaitable[object]]) -> None:
            number = 0
            while not enough.is_set():
                await publish(number)
                number += 1
                # The machine is shared: a load, not a flood.
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            for publish in publishers:
                group.create_task(go_on(publish))
            yield
            enough.set()

    async def more_received(self, count: int) -> None:
        """Wait until so many more requests have come: the broker is at work."""
        seen = self.receipts + count

        async def came() -> bool:
            return self.receipts >= seen

        await eventually(came, what=f"{count} more requests")

    async def whole_again(self, agent: RegisteredAgent) -> None:
        """Wait until a message goes all the way: gateway, worker, recorder, both stores."""
        message_id = await self.send(agent.id)

        async def recorded() -> bool:
            try:
                return (await self.client.message(message_id)).status == "delivered"
            except (NotFound, Unavailable):
                return False

        await eventually(recorded, what="a message that goes all the way")

    @property
    def receipts(self) -> int:
        return sum(map(len, self.ledger.received.values()))

    # --- the end ------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Wait until everything acknowledged has ended and the conveyor holds nothing of this test."""
        await eventually(self._all_ended, what=lambda: f"stuck {sorted(self._open)[:5]} of {len(self._open)}")
        await eventually(self._conveyor_is_empty, what="an empty conveyor")

    async def balance(self) -> None:
        """Drain, and hold the outside ledger against Postgres: nothing lost, nothing made up."""
        await self.drain()
        account = await self.ledger.account(self.place.database_url)
        assert not account.faults(), account.faults()

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask Postgres directly."""
        connection = await asyncpg.connect(self.place.database_url)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    async def _all_ended(self) -> bool:
        self._open = set(self.ledger.acknowledged)
        rows = await self.fetch(
            "SELECT id FROM agent_messages WHERE id = ANY($1) AND status = ANY($2)", self._open, ENDED
        )
        self._open -= {str(row["id"]) for row in rows}
        return not self._open

    async def _conveyor_is_empty(self) -> bool:
        shards = int(await self.redis.hget("ab:deployment", "shards"))
        every = [Keys(shard) for shard in range(shards)]
        streams = [key for keys in every for key in (*keys.ingress.values(), keys.ledger)]
        for agent in self.agents:
            keys = every[shard_of(agent.id, shards)]
            streams += [keys.mailbox(agent.id, lane) for lane in LANES]
        return not any([await self.redis.xlen(stream) for stream in streams])


@asynccontextmanager
async def a_scene(place: Place) -> AsyncIterator[Scene]:
    """Open a scene. The publisher and receivers end with it."""
    async with AsyncExitStack() as stack:
        scene = Scene(place, stack)
        await scene.open()
        yield scene


def spread(agents: Sequence[RegisteredAgent], number: int) -> str:
    """Return the id of one of the agents, each in its turn."""
    return agents[number % len(agents)].id
