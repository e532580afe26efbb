"""The live sessions of one gateway: which there are, what wakes them, what ends them.

Words over pub/sub make things quick; what they may lose is found again: messages by a sweep, a session that
was taken over by the renewal of its lease, a key that was revoked and an agent that changed by a look at the
record. One agent has one session, the newest; it may be at another gateway.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import Struct

from broker.gateway.call import Principal
from broker.gateway.channel import Channel, Kind
from broker.gateway.keyring import FRESH_MS, Keyring
from broker.gateway.known_agents import KnownAgents
from broker.gateway.realtime import words
from broker.gateway.realtime.session import (
    AGENT_GONE,
    DRAINING,
    HAS_ENDPOINT,
    REVOKED,
    TAKEN_OVER,
    Answer,
    End,
    Session,
)
from broker.streams.keys import ARRIVED, PRESENCE_CHANGES, SESSIONS
from broker.streams.keys import REVOKED as KEYS_CHANGED
from broker.streams.mailbox import Mailboxes
from broker.streams.notifications import Notices
from broker.streams.sessions import Sessions
from broker.telemetry import logs, metrics
from schema.errors import BrokerError, TooManySessions, Unauthenticated, Unavailable
from schema.limits import SESSIONS_MAX
from schema.presence import PresenceChange

SWEEP_S: Final = 5.0
RENEW_S: Final = 20.0
LOOK_S: Final = 25.0
"""Between two looks at the keys of all sessions, for words of revocation that got lost."""
LOOK_FRESH_MS: Final = 5_000
"""How old a remembered key may be at such a look: a revoked one ends its session within 30 s in all."""
DRAIN_S: Final = 3.0
ALL: Final = "*"
FAILED: Final = "failed"

_SESSIONS: Final = {kind: metrics.SESSIONS.child(kind=kind.value) for kind in Kind}
_ENDED: Final = {reason: metrics.SESSIONS_ENDED.child(reason=reason) for reason in metrics.SESSION_ENDS}
_ids = msgspec.json.Decoder(list[str])
_changes = msgspec.json.Decoder(list[PresenceChange])


class Guest(Struct):
    """Who is behind a session: by which key, and whom they watch."""

    session: Session
    kind: Kind
    principal: Principal
    authorization: str | None
    watch: frozenset[str]


class Hub:
    """Keeps the sessions of one gateway; `run` until cancelled."""

    def __init__(
        self,
        *,
        notices: Notices,
        mailboxes: Mailboxes,
        leases: Sessions,
        agents: KnownAgents,
        keyring: Keyring,
        now_ms: Callable[[], int],
        is_killed: Callable[[str], bool] = lambda _: False,
        limit: int = SESSIONS_MAX,
    ) -> None:
        self.limit = limit
        self._is_killed = is_killed
        self._mailboxes = mailboxes
        self._leases = leases
        self._agents = agents
        self._keyring = keyring
        self._now_ms = now_ms
        self._guests: dict[str, Guest] = {}
        self._watchers: dict[str, set[str]] = defaultdict(set)
        """Agents that watch, by the agent they watch (`*`: every one)."""
        self._contested: set[str] = set()
        self._doubtful: set[str] = set()
        self._asked = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False
        notices.on(ARRIVED, self._on_arrived)
        notices.on(SESSIONS, self._on_sessions)
        notices.on(PRESENCE_CHANGES, self._on_presence)
        notices.on(KEYS_CHANGED, self._on_keys)
        agents.on_change(self._on_agent)

    def __len__(self) -> int:
        return len(self._guests)

    def doubt_all(self) -> None:
        """Look at every session anew: agents may have been switched off."""
        self._doubtful |= self._guests.keys()
        self._asked.set()

    def session_of(self, agent_id: str) -> Session | None:
        """Return the session the agent has at this gateway."""
        guest = self._guests.get(agent_id)
        return None if guest is None else guest.session

    # --- sessions come and go -------------------------------------------------------------------------

    async def admit(self, agent_id: str, session_id: str) -> None:
        """Make this the agent's session, wherever it had one.

        Raises: TooManySessions at the limit of this gateway, StreamsUnavailable.
        """
        if self._draining or (len(self._guests) >= self.limit and agent_id not in self._guests):
            raise TooManySessions("this gateway has as many live sessions as it may; try again")
        await self._leases.take(agent_id, session_id)

    async def serve(self, guest: Guest, channel: Channel, answer: Answer) -> None:
        """Run an admitted session until it ends."""
        session, agent_id = guest.session, guest.session.agent_id
        self._enter(guest)
        why: End | None = None
        try:
            why = await session.run(channel, answer)
        finally:
            self._leave(guest)
            reason = FAILED if why is None else why.reason
            _ENDED[reason].inc()
            logs.event("realtime.ended", agent=agent_id, kind=guest.kind.value, reason=reason)
            if why is not TAKEN_OVER:
                with suppress(Unavailable):
                    await self._leases.release({agent_id: session.session_id})

    async def drain(self) -> None:
        """End every session now, and wait a little until each has said so."""
        self._draining = True
        for guest in self._guests.values():
            guest.session.end(DRAINING)
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._empty.wait()

    def _enter(self, guest: Guest) -> None:
        agent_id = guest.session.agent_id
        before = self._guests.get(agent_id)
        if before is not None:
            before.session.end(TAKEN_OVER)
            self._leave(before)
        if self._draining:
            guest.session.end(DRAINING)
        self._guests[agent_id] = guest
        self._empty.clear()
        for watched in guest.watch:
            self._watchers[watched].add(agent_id)
        _SESSIONS[guest.kind].inc()

    def _leave(self, guest: Guest) -> None:
        agent_id = guest.session.agent_id
        if self._guests.get(agent_id) is not guest:
            return
        del self._guests[agent_id]
        for watched in guest.watch:
            self._watchers[watched].discard(agent_id)
            if not self._watchers[watched]:
                del self._watchers[watched]
        _SESSIONS[guest.kind].inc(-1)
        if not self._guests:
            self._empty.set()

    # --- words ----------------------------------------------------------------------------------------

    def _on_arrived(self, data: bytes) -> None:
        for agent_id in _ids.decode(data):
            if (guest := self._guests.get(agent_id)) is not None:
                guest.session.wake()

    def _on_presence(self, data: bytes) -> None:
        if not self._watchers:
            return
        for change in _changes.decode(data):
            watching = self._watchers.get(change.agent_id, set()) | self._watchers.get(ALL, set())
            for agent_id in watching:
                guest = self._guests[agent_id]
                said = words.said(guest.kind, "presence", **msgspec.structs.asdict(change))
                guest.session.tell(change.agent_id, said)

    def _on_sessions(self, data: bytes) -> None:
        agent_id = data.decode()
        if agent_id in self._guests:
            self._contested.add(agent_id)
            self._asked.set()

    def _on_keys(self, data: bytes) -> None:
        changed = set(_ids.decode(data))
        self._doubt(agent for agent, guest in self._guests.items() if guest.principal.key_id in changed)

    def _on_agent(self, agent_id: str | None) -> None:
        if agent_id is None:
            self._doubt(self._guests)
        elif agent_id in self._guests:
            self._doubt((agent_id,))

    def _doubt(self, agent_ids: Iterable[str]) -> None:
        self._doubtful.update(agent_ids)
        self._asked.set()

    # --- what happens by the clock, or when asked for ---------------------------------------------------

    async def run(self) -> None:
        """Keep the sessions until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(SWEEP_S, self.sweep))
            group.create_task(self._every(RENEW_S, self.renew_all))
            group.create_task(self._every(LOOK_S, self.check_keys))
            group.create_task(self._answer_doubts())

    async def _every(self, interval_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await work()
            except BrokerError as error:
                logs.warning("realtime.put_off", work=work.__name__, reason=error.message)

    async def sweep(self) -> None:
        """Wake sessions that a word of arrival did not reach, and free room that an acknowledgement by
        another way has made."""
        idle = [guest.session for guest in self._guests.values() if guest.session.idle]
        ready = [(one.agent_id, one.cursors) for one in idle if one.room > 0]
        for agent_id in await self._mailboxes.find_beyond(ready):
            if (guest := self._guests.get(agent_id)) is not None:
                guest.session.wake()
        for session in idle:
            if session.room <= 0:
                await self._free(session)

    async def _free(self, session: Session) -> None:
        waiting = list(session.unacknowledged.items())
        there = await self._mailboxes.present(
            session.agent_id, [(known.lane, known.entry) for _, known in waiting]
        )
        session.settle(
            message_id for (message_id, _), is_there in zip(waiting, there, strict=True) if not is_there
        )

    async def renew_all(self) -> None:
        await self._renew(list(self._guests))

    async def _renew(self, agent_ids: Collection[str]) -> None:
        held = {
            agent_id: guest.session.session_id
            for agent_id in agent_ids
            if (guest := self._guests.get(agent_id)) is not None
        }
        if not held:
            return
        for agent_id in await self._leases.renew(held):
            guest = self._guests.get(agent_id)
            if guest is not None and guest.session.session_id == held[agent_id]:
                guest.session.end(TAKEN_OVER)

    async def _answer_doubts(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            contested, self._contested = self._contested, set()
            doubtful, self._doubtful = self._doubtful, set()
            with suppress(Unavailable):
                await self._renew(contested)
            for agent_id in doubtful:
                if (guest := self._guests.get(agent_id)) is not None:
                    with suppress(Unavailable):
                        await self._check_key(guest)
                        await self._check_agent(guest)

    async def check_keys(self) -> None:
        """Check every key. (Of agents no change is lost: they are followed on a stream.)"""
        for guest in list(self._guests.values()):
            await self._check_key(guest, fresh_ms=LOOK_FRESH_MS)
            await asyncio.sleep(0)  # Most keys are remembered: nobody's request shall wait for thousands.

    async def _check_key(self, guest: Guest, *, fresh_ms: int = FRESH_MS) -> None:
        """End a session whose key is not good any more, or whose agent is switched off.

        Raises: StoreUnavailable.
        """
        if self._is_killed(guest.session.agent_id):
            guest.session.end(REVOKED)
            return
        if guest.authorization is None:
            return
        try:
            await self._keyring.principal_of(guest.authorization, now_ms=self._now_ms(), fresh_ms=fresh_ms)
        except Unauthenticated:
            guest.session.end(REVOKED)

    async def _check_agent(self, guest: Guest) -> None:
        """End a session whose agent is leaving or has its messages pushed. Raises: StoreUnavailable."""
        agent = await self._agents.record(guest.session.agent_id)
        if agent is None or agent.deleted_ms:
            guest.session.end(AGENT_GONE)
        elif agent.endpoint is not None:
            guest.session.end(HAS_ENDPOINT)
