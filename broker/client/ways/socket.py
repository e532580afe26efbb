"""The agent's WebSocket: messages as they arrive, acknowledgements on the same connection.

One session at a time; when it breaks another is opened, with backoff, and gets everything again that was
not acknowledged: what is still in hand is known to the desk and left alone, what was handled is acknowledged
anew. An acknowledgement that finds no connection goes over HTTP.
"""

import asyncio
import logging
from contextlib import suppress
from itertools import count
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from broker.client.backoff import Backoff
from broker.client.failures import error_of, raise_for
from broker.client.incoming import Arrival
from broker.client.outcomes import Again, Failed, Outcome
from broker.client.request import headers_of, unreachable
from broker.client.ways.poll import set_status
from broker.client.ways.way import Place
from schema.codec import encode
from schema.errors import (
    BrokerError,
    Conflict,
    HasEndpoint,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from schema.http import ErrorBody
from schema.limits import MESSAGE_BYTES_MAX, PREFETCH_MAX
from schema.presence import PresenceChange

PATH: Final = "/api/v1/messaging/stream"
OPEN_S: Final = 10.0
ANSWER_S: Final = 10.0
"""For an answer to a frame; then the connection counts as broken for it."""
FRAME_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX
SETTLED_S: Final = 5.0
"""A session that lasted so long was a good one: the next pause is a short one again."""
ALL: Final = "*"

_ENDINGS: Final[dict[int, tuple[type[BrokerError], str]]] = {
    4401: (Unauthenticated, "the key was revoked"),
    4404: (NotFound, "the agent was deleted"),
    4409: (Conflict, "another process has taken over as this agent"),
    4410: (HasEndpoint, "the agent has been given an endpoint: its messages are pushed there"),
}
"""Close codes after which coming back would not help, or only do harm."""

log = logging.getLogger("broker.client")


class _Frame(Struct):
    """Whatever the gateway says; which fields there are depends on `type`."""

    type: str
    ref: int | None = None
    message: Arrival | None = None
    error: ErrorBody | None = None


_decode: Final = msgspec.json.Decoder(_Frame).decode
_decode_presence: Final = msgspec.json.Decoder(PresenceChange).decode


class Socket:
    """See the module's docstring."""

    keeps_presence = True

    def __init__(self) -> None:
        self._connection: ClientConnection | None = None
        self._refs = count(1)
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._telling: set[asyncio.Task[None]] = set()

    async def run(self, place: Place) -> None:
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                await self._session(place)
            except (Unavailable, RateLimited) as error:
                if loop.time() - began_s > SETTLED_S:
                    backoff.reset()
                pause_s = backoff.next_s()
                log.warning("socket: %s; again in %.1f s", error, pause_s)
                await asyncio.sleep(pause_s)

    async def acknowledge(self, place: Place, arrival: Arrival, outcome: Outcome) -> None:
        try:
            await self._ask(_acknowledgement(arrival.id, outcome))
        except Unavailable:
            await set_status(place, arrival.id, outcome)
        except (Conflict, NotFound):
            return

    # --- a session ----------------------------------------------------------------------------------------

    async def _session(self, place: Place) -> None:
        """Serve one connection to its end, and say why it ended: Unavailable where another may do better."""
        async with await _open(place) as connection:
            self._connection = connection
            try:
                # Ends with the connection, however it ends: why is told by the close code.
                with suppress(ConnectionClosed):
                    async for data in connection:
                        self._hear(place, data)
            finally:
                self._connection = None
                self._break_off()
        code, reason = connection.close_code or 0, connection.close_reason
        kind, sentence = _ENDINGS.get(code, (Unavailable, f"the session ended ({code} {reason})"))
        raise kind(sentence)

    def _hear(self, place: Place, data: str | bytes) -> None:
        try:
            frame = _decode(data)
        except msgspec.MsgspecError as error:
            log.warning("socket: a frame was not understood: %s", error)
            return
        if frame.type == "message" and frame.message is not None:
            place.desk.take(frame.message, place.tell)
        elif frame.type == "presence" and place.on_presence is not None:
            # Not in a group: a handler may outlive the session it heard of this in.
            task = asyncio.get_running_loop().create_task(_tell_presence(place, _decode_presence(data)))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        elif frame.ref is not None and (answer := self._answers.pop(frame.ref, None)) is not None:
            if answer.done():
                return
            if frame.error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error_of(422, frame.error))

    # --- asking -------------------------------------------------------------------------------------------

    async def _ask(self, frame: dict[str, Any]) -> None:  # JSON
        """Send a frame and wait for its answer. Raises: Unavailable, and what the answer says."""
        connection = self._connection
        if connection is None:
            raise Unavailable("there is no connection just now")
        ref = next(self._refs)
        answer = self._answers[ref] = asyncio.get_running_loop().create_future()
        try:
            await connection.send(encode({**frame, "ref": ref}).decode())
            async with asyncio.timeout(ANSWER_S):
                await answer
        except (ConnectionClosed, TimeoutError) as error:
            raise Unavailable("the connection broke before the answer came") from error
        finally:
            self._answers.pop(ref, None)

    def _break_off(self) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Unavailable("the connection broke before the answer came"))
        self._answers.clear()


def _address(place: Place) -> str:
    # As many as may be worked on, and as many again that may wait for their next try.
    query: list[tuple[str, str]] = [("prefetch", str(min(2 * place.concurrency, PREFETCH_MAX)))]
    if place.on_presence is not None:
        query.append(("watch", ALL))
    return f"ws{place.url.removeprefix('http').rstrip('/')}{PATH}?{urlencode(query)}"


def _acknowledgement(message_id: str, outcome: Outcome) -> dict[str, Any]:  # JSON
    assert not isinstance(outcome, Again), "what is to come again is not acknowledged"
    frame: dict[str, Any] = {"type": "ack", "message_id": message_id}  # JSON
    if isinstance(outcome, Failed):
        return {**frame, "status": "failed", "reason": outcome.reason}
    return {**frame, "status": "processed", "result": outcome.result}


async def _open(place: Place) -> ClientConnection:
    """Return an open connection. Raises: Unavailable, and what the broker refuses it with."""
    try:
        return await connect(
            _address(place),
            additional_headers=headers_of(place.key, place.agent_id),
            compression=None,
            open_timeout=OPEN_S,
            max_size=FRAME_BYTES_MAX,
            proxy=None,
        )
    except InvalidStatus as refused:
        reply = refused.response
        raise_for(reply.status_code, bytes(reply.body), retry_after=reply.headers.get("retry-after"))
        raise Unavailable(f"the connection was answered with {reply.status_code}") from refused
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise unreachable(error) from error


async def _tell_presence(place: Place, change: PresenceChange) -> None:
    assert place.on_presence is not None
    try:
        await place.on_presence(change)
    except Exception:
        # The top of a word of presence: a handler's fault must not end the session.
        log.exception("the presence handler failed")
