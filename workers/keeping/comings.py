"""Comings and goings of one shard's agents: told once each, on a channel anybody may listen to.

What is so when a keeper takes the shard over is taken as told: a restart is no news about anybody. (Who
changed while nobody kept the shard is therefore not told of; presence over HTTP shows it.) Signs of one agent
that come between two looks count as the last of them.

What could not be published is kept and published later, in order. A word whose reply was lost with the
connection is published again: whoever listens must not mind hearing of a state twice.
"""

from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Final

from broker.core.presence import PresenceWatch, StateChange
from broker.streams.connection import Connection
from broker.streams.keys import PRESENCE_CHANGES
from broker.telemetry import logs, metrics
from schema.codec import encode
from schema.limits import PRESENCE_CHANGES_PER_WORD_MAX, PRESENCE_WATCHED_MAX
from schema.presence import PresenceChange, PresenceState
from schema.times import from_ms

_TOLD: Final = {state: metrics.PRESENCE_CHANGES.child(state=state.value) for state in PresenceState}


class Comings:
    """Follows one shard's agents and tells of their changes of state."""

    def __init__(self, *, shard: int, online_ms: int, silent_after_ms: int) -> None:
        self._shard = shard
        self._watch = PresenceWatch(online_ms=online_ms, silent_after_ms=silent_after_ms)
        self._is_established = False
        self._untold: deque[StateChange] = deque(maxlen=PRESENCE_WATCHED_MAX)

    def hear(self, heard: Mapping[str, int], *, now_ms: int) -> None:
        """Take signs of life (agent -> ms)."""
        if self._is_established:
            self._untold.extend(self._watch.hear(heard, now_ms))
        else:
            self._watch.establish(heard, now_ms)

    async def tell(self, connection: Connection, *, now_ms: int) -> None:
        """Tell what has changed until now; call it once every sign has been heard.

        Raises: StreamsUnavailable.
        """
        if self._is_established:
            self._untold.extend(self._watch.look(now_ms))
        else:
            logs.event("presence.established", shard=self._shard, agents=len(self._watch))
            self._is_established = True
        while self._untold:
            batch = list(islice(self._untold, PRESENCE_CHANGES_PER_WORD_MAX))
            await connection.send("PUBLISH", PRESENCE_CHANGES, encode([_shown(change) for change in batch]))
            for change in batch:
                self._untold.popleft()
                _TOLD[change.state].inc()


def _shown(change: StateChange) -> PresenceChange:
    return PresenceChange(agent_id=change.agent_id, state=change.state, at=from_ms(change.at_ms))
