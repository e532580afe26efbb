"""Pushes to an endpoint of the agent's own, served here by uvicorn or mounted in an ASGI application.

The broker waits for the answer, which says what became of the message. A failure is not a thing an answer can
say, so it is set as the message's status first.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterable, Iterator
from typing import Final

import uvicorn

from broker.client.incoming import Arrival
from broker.client.outcomes import Again, Failed, Outcome
from broker.client.ways.poll import set_status
from broker.client.ways.way import Place
from broker.client.webhooks import WebhookApp
from schema.errors import BrokerError, Rejected

GRACE_S: Final = 2
"""For connections to close once everything in hand is answered."""
KEEP_ALIVE_S: Final = 60
"""Longer than the broker keeps an idle connection, so that it never sends into one we are closing."""
CLOSING: Final = Again(1.0)
UNTOLD: Final = Again(5.0)


class Webhook:
    """See the module's docstring. `listen`: host and port to serve at; None where it is mounted."""

    keeps_presence = False

    def __init__(self, *, secrets: Iterable[str], listen: tuple[str, int] | None) -> None:
        self._secrets = tuple(secrets)
        self._listen = listen
        self.port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Where it is served, once it is."""

    async def run(self, place: Place) -> None:
        if self._listen is None:
            raise Rejected("a webhook is served at `listen`, or mounted as `agent.asgi()` and not run")
        host, port = self._listen
        config = uvicorn.Config(
            self.app(place),
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        server = _Server(config)
        with socket.create_server((host, port)) as listening:
            self.port.set_result(listening.getsockname()[1])
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                await asyncio.shield(serving)
            finally:
                # The desk is drained by now: what is open is answered, and idle connections are closed.
                server.should_exit = True
                await asyncio.wait((serving,), timeout=2 * GRACE_S)

    async def acknowledge(self, place: Place, arrival: Arrival, outcome: Outcome) -> None:
        """The answer to the push has said it."""

    def app(self, place: Place) -> WebhookApp:
        """Return the endpoint itself."""

        async def handle(arrival: Arrival, attempt: int) -> Outcome:
            if place.desk.is_closed:
                return CLOSING
            outcome = await place.desk.outcome(arrival, attempt)
            if isinstance(outcome, Failed):
                try:
                    await set_status(place, arrival.id, outcome)
                except BrokerError:
                    return UNTOLD
            return outcome

        return WebhookApp(handle, secrets=self._secrets)


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs the loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
