"""An agent that is up: its key found, its record up to date, its desk open, its heartbeat going.

Everything with a connection or a task lives here, from `begin` to `end`; what an agent is told before that
(its handlers, how messages come) is a `Plan`.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from broker.client.backoff import Backoff
from broker.client.desk import Desk
from broker.client.handlers import Handlers, unhandled
from broker.client.http import AgentClient
from broker.client.incoming import RESPONSE_TYPE, Arrival, Message, Send, answer_id, handled
from broker.client.outcomes import Again, Outcome, Processed, of_error, of_value
from broker.client.profile import Identity, bring_up_to_date
from broker.client.ways.poll import Poll
from broker.client.ways.socket import Socket
from broker.client.ways.way import Place, Way
from broker.client.ways.webhook import Webhook
from schema.agent import AgentView, RegisteredAgent
from schema.errors import BrokerError, Rejected, Unavailable
from schema.work_order import MESSAGE_OFFER

Transport = Literal["websocket", "poll", "webhook"]

HEARTBEAT_S: Final = 20.0
"""A third of the time an agent shows online after the last one."""
AWAY_S: Final = 5.0
"""Until a message comes again whose handling met a broker that was away."""

log = logging.getLogger("broker.client")


class Plan(Struct, kw_only=True, frozen=True):
    """What an agent is told before it is up. `profile`: fields of AgentPatch. `listen`: where a webhook is
    served, None where it is mounted."""

    identity: Identity
    profile: Mapping[str, Any]
    transport: Transport
    listen: tuple[str, int] | None
    concurrency: int
    drain_s: float
    handlers: Handlers


class Life:
    """See the module's docstring. `send`: how handlers answer."""

    place: Place
    way: Way

    def __init__(self, plan: Plan, send: Send) -> None:
        self._plan = plan
        self._send = send
        self._beating: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Come up, waiting for a broker that is away. Raises: Rejected where it will not have this agent."""
        plan = self._plan
        key, secret = await _patiently(plan.identity.find, plan.profile)
        client = AgentClient(plan.identity.url, key, agent_id=plan.identity.name)
        try:
            record: AgentView = await _patiently(bring_up_to_date, client, plan.identity.name, plan.profile)
            if isinstance(record, RegisteredAgent):
                secret = record.signing_secret
            self.way = self._way(secret)
            # Seen online from here on, whichever way keeps it so.
            await _patiently(client.heartbeat, record.id)
        except BaseException:
            await client.aclose()
            raise
        self.place = Place(
            url=plan.identity.url,
            key=key,
            agent_id=record.id,
            client=client,
            desk=Desk(self._work, concurrency=plan.concurrency),
            tell=self._tell,
            concurrency=plan.concurrency,
            on_presence=plan.handlers.on_presence,
        )
        if not self.way.keeps_presence:
            self._beating = asyncio.create_task(self._beat())

    async def serve(self, stop: asyncio.Event) -> None:
        """Take messages until told to stop; then finish what is in hand.

        Raises: Rejected where the broker will not have this agent any more.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                taking = tasks.create_task(self.way.run(self.place))
                await stop.wait()
                # Nothing more is taken from here on; the way stays open for the acknowledgements.
                await self.place.desk.drain(self._plan.drain_s)
                taking.cancel()
        except* BrokerError as failures:
            raise failures.exceptions[0] from None

    async def end(self) -> None:
        """Finish what is in hand, if that has not been done, and close everything."""
        await self.place.desk.drain(self._plan.drain_s)
        await self.place.desk.close()
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait((self._beating,))
        await self.place.client.aclose()

    # --- inside -------------------------------------------------------------------------------------------

    def _way(self, secret: str | None) -> Way:
        match self._plan.transport:
            case "websocket":
                return Socket()
            case "poll":
                return Poll()
            case "webhook":
                if secret is None:
                    raise Rejected("a webhook needs `signing_secret`, to know the broker by")
                return Webhook(secrets=(secret,), listen=self._plan.listen)

    async def _work(self, arrival: Arrival, attempt: int) -> Outcome:
        """Run the handler of a message; never raises but when cancelled."""
        handlers = self._plan.handlers
        if arrival.message_type == MESSAGE_OFFER and handlers.orders.has_handler:
            return await self._work_on_order(arrival)
        handler = handlers.find(arrival.message_type)
        if handler is None:
            return unhandled(arrival)
        message = Message(arrival, attempt=attempt, send=self._send)
        # The desk gives every message a task, and so a context, of its own.
        handled.set(arrival.id)
        try:
            value = await handler(message)
        except Exception as error:
            outcome = of_error(error)
            if not isinstance(outcome, Again):
                log.exception("message %s: the handler failed", arrival.id)
            return outcome
        return of_value(value, answers=arrival.wants_answer and not message.replied)

    async def _work_on_order(self, arrival: Arrival) -> Outcome:
        try:
            return await self._plan.handlers.orders.handle(self.place.client, self.place.agent_id, arrival)
        except BrokerError as error:
            log.warning("message %s: %s; again in %.0f s", arrival.id, error, AWAY_S)
            return Again(AWAY_S)

    async def _tell(self, arrival: Arrival, outcome: Outcome) -> None:
        """Answer the sender, then acknowledge: a crash in between answers twice, under the same id."""
        if isinstance(outcome, Processed) and outcome.reply is not None:
            await self._answer(arrival, outcome.reply)
        await self.way.acknowledge(self.place, arrival, outcome)

    async def _answer(self, arrival: Arrival, reply: Mapping[str, Any]) -> None:  # JSON
        try:
            await self._send(
                reply,
                to=arrival.from_agent_id,
                message_type=RESPONSE_TYPE,
                reply_to=arrival.id,
                id=answer_id(arrival.id, 0),
            )
        except Unavailable:
            raise
        except BrokerError as error:
            # The sender is gone or wants no messages. The work is done all the same.
            log.warning("message %s: the sender could not be answered (%s)", arrival.id, error.code)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await self.place.client.heartbeat(self.place.agent_id)
            except BrokerError as error:
                log.debug("heartbeat: %s", error)


async def _patiently(do: Any, *args: Any) -> Any:  # any coroutine function and what it takes
    """Do something again and again while the broker is away. Raises: what else `do` does."""
    backoff = Backoff()
    while True:
        try:
            return await do(*args)
        except Unavailable as error:
            pause_s = backoff.next_s()
            log.warning("%s; again in %.1f s", error, pause_s)
            await asyncio.sleep(pause_s)
