"""Presence: which state a silence amounts to, and which changes of state follow from signs of life.

Theory of operation. `PresenceWatch` holds for every agent that is not gone its last sign and the state that
was last told. Time moves an agent online -> away -> gone, a sign brings it back. A change is told once, as of
the moment it happened: a sign that comes after a silence tells of the silence first, also when nobody looked
in between. Each agent stands in a heap by the moment it will fall next, and is put back there when a sign has
moved that moment, so that neither a sign nor a look costs more than the agents concerned. (One that came back
has a second, earlier place; the later one no longer counts.)

Not decided here: when to look, and who is told. No clock: `now_ms` is an argument.
"""

import heapq
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from schema.limits import PRESENCE_WATCHED_MAX
from schema.presence import PresenceState

NEVER_MS: Final = 1 << 62


class StateChange(Struct, frozen=True, gc=False):
    """An agent's state has been this since `at_ms`."""

    agent_id: str
    state: PresenceState
    at_ms: int


def presence_state(heartbeat_ms: int, now_ms: int, *, online_ms: int, silent_after_ms: int) -> PresenceState:
    """Return the state of an agent last heard of at `heartbeat_ms` (0: never)."""
    silence_ms = now_ms - heartbeat_ms
    if heartbeat_ms <= 0 or silence_ms >= silent_after_ms:
        return PresenceState.GONE
    return PresenceState.ONLINE if silence_ms < online_ms else PresenceState.AWAY


class _Watched(Struct):
    """`falls_ms`: its place in the heap; entries of other moments do not count."""

    last_ms: int
    told: PresenceState
    falls_ms: int = NEVER_MS


class PresenceWatch:
    """The states of one shard's agents, as they were told."""

    def __init__(
        self, *, online_ms: int, silent_after_ms: int, agents_max: int = PRESENCE_WATCHED_MAX
    ) -> None:
        self._online_ms = online_ms
        self._silent_after_ms = silent_after_ms
        self._agents_max: Final = agents_max
        self._watched: dict[str, _Watched] = {}
        self._falls: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._watched)

    def establish(self, heard: Mapping[str, int], now_ms: int) -> None:
        """Take signs of life (agent -> ms) without telling: what is so already is no change."""
        self.hear(heard, now_ms)
        self.look(now_ms)

    def hear(self, heard: Mapping[str, int], now_ms: int) -> list[StateChange]:
        """Take signs of life (agent -> ms); return what changed by them."""
        changes: list[StateChange] = []
        watched_by, online_ms = self._watched, self._online_ms
        for agent_id, at_ms in heard.items():
            watched = watched_by.get(agent_id)
            # Nearly every sign is of an agent that is online and says so again: it changes nothing else.
            if (
                watched is not None
                and watched.told is PresenceState.ONLINE
                and 0 < at_ms - watched.last_ms < online_ms
            ):
                watched.last_ms = at_ms
            else:
                changes += self._hear(agent_id, at_ms, now_ms)
        return changes

    def look(self, now_ms: int) -> list[StateChange]:
        """Return who fell away or is gone by now."""
        changes: list[StateChange] = []
        while self._falls and self._falls[0][0] <= now_ms:
            falls_ms, agent_id = heapq.heappop(self._falls)
            watched = self._watched.get(agent_id)
            if watched is None or watched.falls_ms != falls_ms:
                continue
            changes += self._fall(agent_id, watched, now_ms)
            if watched.told is PresenceState.GONE:
                del self._watched[agent_id]
            else:
                watched.falls_ms = NEVER_MS
                self._place(agent_id, watched)
        return changes

    def _hear(self, agent_id: str, at_ms: int, now_ms: int) -> list[StateChange]:
        watched = self._watched.get(agent_id)
        if watched is None:
            if len(self._watched) >= self._agents_max:
                return []
            watched = self._watched[agent_id] = _Watched(at_ms, PresenceState.GONE)
        elif at_ms <= watched.last_ms:
            return []
        changes = self._fall(agent_id, watched, at_ms)
        watched.last_ms = at_ms
        # A late sign of an agent that is away does not bring it back; a first one is told, however late.
        is_back = now_ms - at_ms < self._online_ms or watched.told is PresenceState.GONE
        if is_back and watched.told is not PresenceState.ONLINE:
            watched.told = PresenceState.ONLINE
            changes.append(StateChange(agent_id, PresenceState.ONLINE, at_ms))
            self._place(agent_id, watched)
        return changes

    def _fall(self, agent_id: str, watched: _Watched, until_ms: int) -> list[StateChange]:
        """Move the agent on by the silence since its last sign; return the changes that is."""
        changes: list[StateChange] = []
        for state in (PresenceState.AWAY, PresenceState.GONE):
            at_ms = self._since_ms(watched.last_ms, state)
            if state is PresenceState.AWAY and self._online_ms == self._silent_after_ms:
                continue  # nobody is ever away then
            if at_ms <= until_ms and _DEPTH[watched.told] < _DEPTH[state]:
                watched.told = state
                changes.append(StateChange(agent_id, state, at_ms))
        return changes

    def _since_ms(self, last_ms: int, state: PresenceState) -> int:
        """Return when an agent last heard of then falls to this state."""
        return last_ms + (self._online_ms if state is PresenceState.AWAY else self._silent_after_ms)

    def _place(self, agent_id: str, watched: _Watched) -> None:
        """Put the agent into the heap by its next fall, unless it stands there for that or sooner."""
        following = PresenceState.AWAY if watched.told is PresenceState.ONLINE else PresenceState.GONE
        falls_ms = self._since_ms(watched.last_ms, following)
        if falls_ms < watched.falls_ms:
            watched.falls_ms = falls_ms
            heapq.heappush(self._falls, (falls_ms, agent_id))


_DEPTH: Final = {PresenceState.ONLINE: 0, PresenceState.AWAY: 1, PresenceState.GONE: 2}
