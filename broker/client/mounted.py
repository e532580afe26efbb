"""A webhook agent as an ASGI application, in a server of its own or mounted in somebody's application."""

import asyncio
from typing import Protocol

from broker.client.life import Life
from broker.client.ways.webhook import Webhook
from broker.client.webhooks import Receive, Scope, Send, WebhookApp
from schema.errors import BrokerError


class Upright(Protocol):
    """An agent, as far as this needs one."""

    @property
    def up(self) -> Life: ...

    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *_: object) -> None: ...


class Mounted:
    """See the module's docstring."""

    def __init__(self, agent: Upright) -> None:
        self._agent = agent
        self._app: WebhookApp | None = None
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        app = self._app or await self._come_up()
        await app(scope, receive, send)

    async def _come_up(self) -> WebhookApp:
        async with self._lock:
            if self._app is None:
                await self._agent.__aenter__()
                life = self._agent.up
                assert isinstance(life.way, Webhook)
                self._app = life.way.app(life.place)
            return self._app

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._come_up()
        except BrokerError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._agent.__aexit__()
        self._app = None
        await send({"type": "lifespan.shutdown.complete"})
