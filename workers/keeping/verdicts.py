"""Writes down what the delivery owner of a shard has found out about endpoints, and tells everybody.

A verdict lies in a stream of its shard until its row is committed and the change announced; cut off anywhere
in between it is done again, and a row that says so already changes no more. Postgres away: they wait.
"""

import asyncio
from contextlib import suppress
from typing import Final

import msgspec

from broker.store import endpoint_health
from broker.store.pool import Pool
from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys
from broker.streams.notifications import publish_recorded
from broker.streams.registry import announce
from broker.telemetry import logs, metrics
from schema.errors import BrokerError, DataFault, StoreUnavailable, StreamsFull
from schema.health import Verdict

LOOK_S: Final = 0.25
"""Until a verdict is known everywhere; the worker that made it has stopped pushing by then."""
AWAY_S: Final = 2.0
"""Wait while Postgres is away, or Redis at its memory limit."""
BATCH_MAX: Final = 64

_WRITTEN: Final = metrics.KEPT.child(job="endpoints")
_UNAVAILABLE: Final = metrics.POSTGRES_ERRORS.child(kind="unavailable")
_decoder = msgspec.json.Decoder(Verdict)


class Verdicts:
    """The verdicts of one shard."""

    def __init__(self, pool: Pool, keys: Keys, *, disable_after_ms: int) -> None:
        self._pool = pool
        self._keys = keys
        self._disable_after_ms = disable_after_ms

    async def run(self, connection: Connection) -> None:
        """Look until cancelled. Raises: StreamsUnavailable."""
        while True:
            try:
                full = await self.look(connection) == BATCH_MAX
                pause_s = 0.0 if full else LOOK_S
            except (StoreUnavailable, StreamsFull) as error:
                if isinstance(error, StoreUnavailable):
                    _UNAVAILABLE.inc()
                logs.warning("endpoints.put_off", shard=self._keys.shard, reason=error.message)
                pause_s = AWAY_S
            await asyncio.sleep(pause_s)

    async def look(self, connection: Connection) -> int:
        """Write down what there is; return how many verdicts that was.

        Raises: StoreUnavailable, StreamsUnavailable, StreamsFull.
        """
        entries: Reply = await connection.send("XRANGE", self._keys.verdicts, "-", "+", "COUNT", BATCH_MAX)
        for entry, fields in entries:
            await self._write(connection, fields[1])
            await connection.send("XDEL", self._keys.verdicts, entry)
        return len(entries)

    async def _write(self, connection: Connection, raw: bytes) -> None:
        try:
            verdict = _decoder.decode(raw)
            changed = await endpoint_health.apply(
                self._pool, verdict, disable_after_ms=self._disable_after_ms
            )
        except (msgspec.MsgspecError, DataFault) as error:
            # The next failure of that endpoint makes another; this one would stop all the others.
            logs.error("endpoints.verdict_unusable", shard=self._keys.shard, error=error)
            return
        # Also where nothing has changed: the last try may have ended between the commit and here.
        await announce(connection, verdict.agent_id)
        if changed is None:
            return
        _WRITTEN.inc()
        logs.event(
            f"endpoint.{verdict.finding.value}",
            agent=verdict.agent_id,
            stage=verdict.stage,
            disabled=changed.endpoint_fault is not None,
        )
        with suppress(BrokerError):
            # A word that gets lost costs a poll a moment.
            await publish_recorded(connection, (), (verdict.agent_id,))
