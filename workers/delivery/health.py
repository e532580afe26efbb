"""Remembers which endpoints of a shard do nothing but fail, and tells the keeper what is to be done about it.

`broker.core.health` decides; the keeper writes down (`workers.keeping.verdicts`). What is remembered lies in
Redis, so that restarts and takeovers begin nothing anew. Nothing is written for endpoints that work: once
when a breaker opens, once when the endpoint answers again, and a verdict at each stage in between.

Redis at its memory limit refuses such a write; the next failure makes it again. A lost connection ends the
owner, and the next one reads what was written.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from broker.core.health import stage_of
from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys
from broker.telemetry import logs
from schema.agent import EndpointFault
from schema.codec import encode
from schema.errors import BrokerError, StreamsFull
from schema.health import Failing, Finding, Verdict
from workers.delivery.endpoint import Endpoint
from workers.delivery.mailroom import Mailroom

PAGE: Final = 1_000
AGAIN_S: Final = 0.5
"""A refused 410 verdict is told again after this: no further failure would do it, nothing is pushed there."""

_decoder = msgspec.json.Decoder(Failing)


class Health:
    """What is known of the endpoints of one shard that fail. `on_disabled`: nothing is to be pushed there any
    more; what waits is to be ended."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        room: Mailroom,
        *,
        disable_after_ms: int,
        on_disabled: Callable[[Endpoint], None],
        on_error: Callable[[BrokerError], None],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._failing = room.failing
        self._unsaved: set[str] = set()
        """Agents whose last note Redis has refused."""
        self._disable_after_ms = disable_after_ms
        self._on_disabled = on_disabled
        self._on_error = on_error

    async def load(self) -> None:
        """Read what the last owner has written."""
        cursor: str | bytes = "0"
        while True:
            cursor, page = await self._connection.send("HSCAN", self._keys.failing, cursor, "COUNT", PAGE)
            for agent_id, raw in zip(page[::2], page[1::2], strict=True):
                try:
                    self._failing[agent_id.decode()] = _decoder.decode(raw)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    logs.warning("delivery.health_unreadable", shard=self._keys.shard)
            if cursor == b"0":
                return

    def failed(self, endpoint: Endpoint, now_ms: int, *, what: str) -> None:
        """Note a failure of an endpoint whose breaker is open."""
        agent = endpoint.agent
        failing = self._failing.get(agent.id)
        known = failing is not None and failing.endpoint_since_ms == agent.endpoint_since_ms
        if failing is None or not known:
            failing = Failing(now_ms, 0, agent.endpoint_since_ms)
            self._failing[agent.id] = failing
        endpoint.is_failing = True
        stage = stage_of(now_ms - failing.since_ms, self._disable_after_ms)
        if known and stage <= failing.told and agent.id not in self._unsaved:
            return
        if stage > failing.told:
            failing.told = stage
            verdict = self._verdict(endpoint, Finding.FAILING, failing.since_ms, now_ms)
            verdict.stage, verdict.what = stage, what
            # Before the note below, or it might be lost: told twice it changes nothing more.
            self._tell(verdict, partial(self._told, failing))
        command = ("HSET", self._keys.failing, agent.id, encode(failing))
        self._connection.call(command, partial(self._noted, agent.id))

    def recovered(self, endpoint: Endpoint, now_ms: int) -> None:
        """Note that an endpoint that failed answers."""
        told = self._forget(endpoint)
        if told:
            self._tell(self._verdict(endpoint, Finding.RECOVERED, now_ms, now_ms), self._answered)

    def gone(self, endpoint: Endpoint, now_ms: int) -> None:
        """Note a 410: nothing more is pushed there from this moment."""
        if endpoint.fault is not None:
            return
        endpoint.disable(EndpointFault.GONE)
        self._say_gone(self._verdict(endpoint, Finding.GONE, now_ms, now_ms))
        self._on_disabled(endpoint)

    def changed(self, endpoint: Endpoint) -> None:
        """Forget what is known of an endpoint that was replaced, or is to be tried again."""
        self._forget(endpoint)

    def departed(self, agent_id: str) -> None:
        """Forget an agent that is gone."""
        if self._failing.pop(agent_id, None) is not None:
            self._connection.call(("HDEL", self._keys.failing, agent_id), self._answered)

    # --- inside ---------------------------------------------------------------------------------------

    def _forget(self, endpoint: Endpoint) -> int:
        """Return how much of it its owner has been told."""
        endpoint.is_failing = False
        failing = self._failing.pop(endpoint.agent.id, None)
        self._unsaved.discard(endpoint.agent.id)
        if failing is None:
            return 0
        self._connection.call(("HDEL", self._keys.failing, endpoint.agent.id), self._answered)
        return failing.told

    def _verdict(self, endpoint: Endpoint, finding: Finding, since_ms: int, now_ms: int) -> Verdict:
        agent = endpoint.agent
        return Verdict(
            agent_id=agent.id,
            finding=finding,
            endpoint_since_ms=agent.endpoint_since_ms,
            since_ms=since_ms,
            at_ms=now_ms,
        )

    def _tell(self, verdict: Verdict, on_reply: Callable[[Reply], None]) -> None:
        self._connection.call(("XADD", self._keys.verdicts, "*", "v", encode(verdict)), on_reply)

    def _say_gone(self, verdict: Verdict) -> None:
        def answered(reply: Reply) -> None:
            if isinstance(reply, StreamsFull):
                asyncio.get_running_loop().call_later(AGAIN_S, self._say_gone, verdict)
            else:
                self._answered(reply)

        self._tell(verdict, answered)

    def _told(self, failing: Failing, reply: Reply) -> None:
        if isinstance(reply, StreamsFull):
            failing.told = 0
        self._answered(reply)

    def _noted(self, agent_id: str, reply: Reply) -> None:
        if isinstance(reply, StreamsFull):
            self._unsaved.add(agent_id)
        else:
            self._unsaved.discard(agent_id)
            self._answered(reply)

    def _answered(self, reply: Reply) -> None:
        if isinstance(reply, BrokerError) and not isinstance(reply, StreamsFull):
            self._on_error(reply)
