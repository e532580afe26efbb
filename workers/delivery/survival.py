"""Says of delivery owners that have lost a lease, or a connection, and not their lives: that was no death.

Who takes a shard over finds the word of an owner before and cannot know what became of it, so it counts a
death (`trials`). Only the process itself knows better: what ends in it in bad order is noted here, and said
in Redis as soon as that answers; at the latest before this process begins on the same shard again. Then
nothing is held against what was under way. A process that does die says nothing.

Said late, the next owner may have read one death too many; POISON_DEATHS are far more than one.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection
from typing import Final

from broker.streams.connection import Connection
from broker.streams.keys import Keys
from broker.streams.link import Link
from broker.streams.scripts import SURVIVE
from broker.telemetry import logs
from schema.errors import BrokerError, StreamsUnavailable
from schema.ids import new_id

RETRY_S: Final = 0.5
ANSWER_S: Final = 5.0
TOLD_MS: Final = 120_000
"""For so long saying the same again changes nothing: its answer may have been lost."""


class Survival:
    """What one process has to say of its own shards: of each at most one life, the last."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._untold: dict[int, tuple[Keys, str, str, set[str]]] = {}
        self._work = asyncio.Event()
        self._telling: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def lost(self, keys: Keys, owner: str, under_way: Collection[str]) -> None:
        """Note that an owner of this process has ended, with these places noted as under way."""
        self._untold[keys.shard] = keys, owner, new_id(), set(under_way)
        self._work.set()

    async def tell(self, connection: Connection, shard: int) -> None:
        """Say what there is to say of a shard. Raises: BrokerError; it is said again then."""
        async with self._telling[shard]:
            untold = self._untold.get(shard)
            if untold is None:
                return
            keys, owner, life, under_way = untold
            try:
                async with asyncio.timeout(ANSWER_S):
                    await connection.evaluate(
                        SURVIVE,
                        (keys.deliverer, keys.deaths, keys.trials, keys.survived(life)),
                        owner,
                        TOLD_MS,
                        *under_way,
                    )
            except TimeoutError:
                raise StreamsUnavailable("no answer in time to what survived") from None
            if self._untold.get(shard) is untold:
                del self._untold[shard]
            logs.event("delivery.survived", shard=shard, under_way=len(under_way))

    async def run(self) -> None:
        """Say it as soon as that is possible, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                connection = await self._link.get()
                # Together: a node that is away holds up what is said of its own shards and of no other.
                answers = await asyncio.gather(
                    *(self.tell(connection, shard) for shard in tuple(self._untold)), return_exceptions=True
                )
                for answer in answers:
                    if answer is not None:
                        raise answer
            except BrokerError as error:
                logs.warning("delivery.survival_untold", reason=error.message)
                self._work.set()
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # the top of a worker loop: a bug met here must not end deliveries
                logs.error("delivery.survival_broken", error=error)
