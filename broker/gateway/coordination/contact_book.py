"""What a gateway knows of contacts, so that hardly any message asks Postgres who may write to whom.

Three things are remembered. Who has set a rate at all: all of them, read every few seconds, so that a message
to anybody else who takes from everybody costs nothing. How two agents stand: for seconds. Which recipients
were seen to choose their senders: those are closed, not open, while Postgres cannot be asked.

A change is told to every gateway (`ab:contacts`); a lost word costs the seconds. Nobody is turned away on a
remembered "no": who was accepted a moment ago may write at once.

Invariant: what was read before a change became known is never remembered after it (`_changes` counts them).
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

import msgspec

from broker.core.contacts import Standing
from broker.store import contacts as stored_contacts
from broker.store.pool import Pool
from broker.streams.keys import CONTACTS_CHANGED
from broker.streams.link import Link
from schema.codec import encode
from schema.errors import StoreUnavailable, Unavailable
from schema.limits import AGENTS_WITH_RATES_MAX, CONTACTS_CACHED_MAX

FRESH_S: Final = 3.0
READ_RATES_S: Final = 3.0

_word: Final = msgspec.json.Decoder(tuple[str, str])


class ContactBook:
    """Finds how two agents stand. `run` until cancelled, to know who has set rates."""

    def __init__(self, pool: Pool, link: Link) -> None:
        self._pool = pool
        self._link = link
        self._cached: dict[tuple[str, str], tuple[Standing, float]] = {}
        self._changes = 0
        self._rated: set[str] | None = None
        self._guarded: set[str] = set()

    def may_have_rate(self, recipient: str) -> bool:
        """Tell whether the recipient may have set a rate for anybody."""
        return self._rated is None or recipient in self._rated

    async def believed(self, recipient: str, sender: str) -> Standing:
        """Return how the sender stands with the recipient, as it was at most FRESH_S ago.

        Raises: StoreUnavailable.
        """
        entry = self._cached.get((recipient, sender))
        if entry is not None and time.monotonic() - entry[1] < FRESH_S:
            return entry[0]
        return await self.looked_up(recipient, sender)

    async def looked_up(self, recipient: str, sender: str) -> Standing:
        """Return how the sender stands with the recipient now. Raises: StoreUnavailable."""
        changes = self._changes
        standing = await stored_contacts.standing(self._pool, recipient=recipient, sender=sender)
        if changes == self._changes:
            if len(self._cached) >= CONTACTS_CACHED_MAX:
                self._cached.clear()
            self._cached[recipient, sender] = (standing, time.monotonic())
        return standing

    def note_policy(self, recipient: str, *, is_open: bool) -> None:
        """Remember whether the recipient takes messages of everybody."""
        if is_open:
            self._guarded.discard(recipient)
        elif len(self._guarded) < CONTACTS_CACHED_MAX:
            self._guarded.add(recipient)

    def takes_all(self, recipient: str) -> bool:
        """Remember that the recipient takes messages of everybody; tell whether any number of them."""
        self._guarded.discard(recipient)
        return self._rated is not None and recipient not in self._rated

    def was_guarded(self, recipient: str) -> bool:
        """Tell whether the recipient, when last heard of, did not take messages of everybody."""
        return recipient in self._guarded

    async def changed(self, agent_id: str, peer_id: str) -> None:
        """Look again at how these two stand, here and in every other gateway."""
        self._forget(agent_id, peer_id)
        with suppress(Unavailable):
            connection = await self._link.get()
            await connection.send("PUBLISH", CONTACTS_CHANGED, encode((agent_id, peer_id)))

    def on_word(self, data: bytes) -> None:
        """Take word of another gateway."""
        with suppress(msgspec.MsgspecError):
            self._forget(*_word.decode(data))

    async def run(self) -> None:
        """Keep knowing who has set rates, until cancelled."""
        while True:
            with suppress(StoreUnavailable):
                await self.read_rates()
            await asyncio.sleep(READ_RATES_S)

    async def read_rates(self) -> None:
        """Read who has set rates; with too many of them, nobody is known not to. Raises: StoreUnavailable."""
        changes = self._changes
        rated = await stored_contacts.with_rates(self._pool, AGENTS_WITH_RATES_MAX + 1)
        if changes == self._changes:
            self._rated = set(rated) if len(rated) <= AGENTS_WITH_RATES_MAX else None

    def _forget(self, agent_id: str, peer_id: str) -> None:
        self._changes += 1
        for pair in ((agent_id, peer_id), (peer_id, agent_id)):
            self._cached.pop(pair, None)
        if self._rated is not None:
            self._rated.add(agent_id)  # perhaps; the next reading tells
