"""An agent: handlers for messages, and everything it takes to be there for them.

    agent = Agent("summarizer", url="http://127.0.0.1:8080", key="abk_...", capabilities=["summarize"])

    @agent.on("task")
    async def summarize(message):
        return {"summary": message.content["text"][:100]}

    agent.run()

Theory of operation: a *way* (socket, poll, webhook) brings messages to the *desk*, which runs their handlers,
so many at a time and each message once; what came of it goes back the same way. What a handler returns is the
message's result, and goes to its sender as a `response`; what it raises fails the message, but for `Retry`,
which leaves it for later. Delivery is at least once: an acknowledged message is not handled again, one whose
agent died in the middle is.
"""

import asyncio
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from broker.client.asking import ask
from broker.client.credentials import Credentials, register
from broker.client.handlers import Decorated, Handlers
from broker.client.http import AgentClient
from broker.client.incoming import handled
from broker.client.life import Life, Plan, Transport
from broker.client.mounted import Mounted
from broker.client.orders import OrderHandler
from broker.client.profile import Identity
from broker.client.values import SentMessage
from broker.client.ways.way import OnPresence

CONCURRENCY: Final = 10
DRAIN_S: Final = 30.0
ASK_S: Final = 30.0


class Agent:
    """See the module's docstring.

    `key`: the agent's own, or the operator's; without it `credentials_file` is read, `operator_key` registers
    the agent (and fills the file), or AGENT_API_KEY is taken. An agent that comes with an operator's key is
    registered if need be. `capabilities` and further fields of a registration (`type`, ...) are brought up to
    date at every start.

    `transport`: how messages come. A webhook has a public `endpoint` (None: as it is registered); it is
    served at `listen` (host, port) by `run` and `serve`, or mounted elsewhere as `agent.asgi()`.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        key: str | None = None,
        capabilities: Iterable[str] | None = None,
        transport: Transport = "websocket",
        concurrency: int = CONCURRENCY,
        operator_key: str | None = None,
        credentials_file: str | Path | None = None,
        endpoint: str | None = None,
        listen: tuple[str, int] | None = None,
        signing_secret: str | None = None,
        drain_s: float = DRAIN_S,
        **profile: Any,  # further fields of RegisterRequest
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency is at least 1")
        named = {} if capabilities is None else {"capabilities": list(capabilities)}
        self._handlers = Handlers()
        self._plan = Plan(
            identity=Identity(
                name,
                url=url,
                key=key,
                operator_key=operator_key,
                credentials_file=None if credentials_file is None else Path(credentials_file),
                signing_secret=signing_secret,
            ),
            profile={**profile, **named, **_endpoint(transport, endpoint)},
            transport=transport,
            listen=listen,
            concurrency=concurrency,
            drain_s=drain_s,
            handlers=self._handlers,
        )
        self._life: Life | None = None
        self._entered = 0
        self._coming_up = asyncio.Lock()
        self._stop = asyncio.Event()

    # --- handlers -----------------------------------------------------------------------------------------

    def on(self, message_type: str | None = None) -> Callable[[Decorated], Decorated]:
        """Decorate the handler of a message type; without one, of every type that has no handler.

        The handler takes a `Message`. What it returns is the message's result, and the content of a
        `response` to its sender, unless the message was itself an answer or a notice, the handler has replied
        by itself, or returned None.
        """

        def decorate(handler: Decorated) -> Decorated:
            self._handlers.add(message_type, handler)
            return handler

        return decorate

    def on_work_order(self, handler: OrderHandler) -> OrderHandler:
        """Decorate what does work orders: each is accepted, its lease kept while the handler works, and
        completed with what it returns, or failed with what it raises."""
        self._handlers.orders.work_with(handler)
        return handler

    def on_work_order_offer(self, handler: OrderHandler) -> OrderHandler:
        """Decorate what decides about work orders: it calls `order.accept()` or `order.reject(reason)`. Of an
        accepted one the lease is kept, and what the handler returns completes it."""
        self._handlers.orders.decide_with(handler)
        return handler

    def on_presence(self, handler: OnPresence) -> OnPresence:
        """Decorate what hears of agents that come and go (a `PresenceChange`); over the socket only."""
        if self._plan.transport != "websocket":
            raise ValueError("presence is only told over the websocket")
        self._handlers.hear_presence(handler)
        return handler

    # --- speaking -----------------------------------------------------------------------------------------

    @property
    def client(self) -> AgentClient:
        """Every operation of the contract, as this agent. Raises: RuntimeError before the agent is open."""
        return self.up.place.client

    @property
    def id(self) -> str:
        """The agent's id. Raises: RuntimeError before the agent is open."""
        return self.up.place.agent_id

    async def send(
        self,
        content: Mapping[str, Any],  # an agent's own JSON
        *,
        to: str | None = None,
        requirements: Sequence[str] | None = None,
        **more: Any,  # further fields of SendRequest, and `wait`
    ) -> str:
        """Send a message as this agent, and return its id once it is on disk.

        In a handler it counts as caused by the message that is handled: hops add up, so that agents that set
        each other off come to an end.

        Raises: UnknownRecipient, NotAContact, RateLimited, Rejected, Unavailable.
        """
        sent = await self.client.messages.send(
            content, to=to, requirements=requirements, **{"wait": "accepted", **_cause(more), **more}
        )
        return sent.id

    async def ask(
        self,
        content: Mapping[str, Any],  # an agent's own JSON
        *,
        to: str | None = None,
        requirements: Sequence[str] | None = None,
        timeout_s: float = ASK_S,
        **more: Any,  # further fields of SendRequest
    ) -> SentMessage:
        """Send a message as this agent, and return the answer to it.

        Raises: NoAnswer, TimeoutError, and what `send` does.
        """
        more = {**_cause(more), **more}
        return await ask(self.client, content, timeout_s=timeout_s, to=to, requirements=requirements, **more)

    @staticmethod
    async def register(url: str, operator_key: str, name: str, **profile: Any) -> Credentials:
        """Register an agent, and return its key and secret, this once. `profile`: fields of RegisterRequest.

        Raises: NameTaken, AddressDenied, Rejected, Unavailable.
        """
        return await register(url, operator_key, name, **profile)

    # --- life ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; then finish what is in hand, and return.

        Raises: Rejected where the broker will not have this agent.
        """
        asyncio.run(self._run())

    async def serve(self) -> None:
        """Work until `stop` is called; then finish what is in hand. The broker being away is waited out.

        Raises: Rejected where the broker will not have this agent.
        """
        async with self:
            try:
                await self.up.serve(self._stop)
            finally:
                self._stop.clear()

    def stop(self) -> None:
        """Let `serve` end: what is in hand is finished first, for `drain_s` at most."""
        self._stop.set()

    def asgi(self) -> Mounted:
        """Return a webhook agent's endpoint as an ASGI application.

        Served by itself, its lifespan brings the agent up and down. Mounted in an application that has its
        own, enter `async with agent` there; otherwise the first push brings it up.
        """
        if self._plan.transport != "webhook":
            raise ValueError("only a webhook agent is an ASGI application")
        return Mounted(self)

    async def __aenter__(self) -> Self:
        """Come up: find the key, bring the registry up to date, be seen online.

        Raises: Rejected where the broker will not have this agent.
        """
        async with self._coming_up:
            if self._life is None:
                life = Life(self._plan, self.send)
                await life.begin()
                self._life = life
            self._entered += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered -= 1
        if self._entered == 0 and self._life is not None:
            try:
                # Up to its end: handlers that are still at work may send.
                await self._life.end()
            finally:
                self._life = None

    @property
    def up(self) -> Life:
        """What there is while the agent is up. Raises: RuntimeError while it is not."""
        if self._life is None:
            raise RuntimeError("the agent is not up: `run` it, or enter `async with agent`")
        return self._life

    async def _run(self) -> None:
        serving = asyncio.ensure_future(self.serve())

        def end() -> None:
            self.stop()
            if self._life is None:
                # It waits for a broker that is away: there is nothing in hand.
                serving.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        try:
            await serving
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def _cause(more: Mapping[str, Any]) -> dict[str, str]:  # fields of SendRequest
    """Return what a message says of its cause, where it says nothing yet."""
    message_id = handled.get()
    return {} if message_id is None or "reply_to" in more else {"caused_by": message_id}


def _endpoint(transport: Transport, endpoint: str | None) -> dict[str, str | None]:
    """Return what the registry shall say of an agent's endpoint, if anything."""
    if transport != "webhook":
        # An agent that pulls has none; one left over from other days would get its messages.
        return {"endpoint": None}
    return {} if endpoint is None else {"endpoint": endpoint}
