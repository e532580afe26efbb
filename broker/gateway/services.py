"""Everything the handlers of one gateway process share: stores, streams, caches, waiters."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from broker.core.addresses import AddressPolicy
from broker.gateway.comebacks import Comebacks
from broker.gateway.coordination.arrivals import Arrivals
from broker.gateway.coordination.contact_book import ContactBook
from broker.gateway.coordination.sender_names import SenderNames
from broker.gateway.coordination.totals import Totals
from broker.gateway.gatekeeper import Gatekeeper
from broker.gateway.key_use import KeyUse
from broker.gateway.keyring import Keyring
from broker.gateway.known_agents import KnownAgents
from broker.gateway.lineage import Lineage
from broker.gateway.realtime.hub import Hub
from broker.gateway.signs_of_life import SignsOfLife
from broker.gateway.waiting import Waiters
from broker.settings import Settings
from broker.store.pool import Pool
from broker.streams.acknowledgement import Acknowledger
from broker.streams.allowances import Allowances
from broker.streams.beats import Beats
from broker.streams.ingress import Publisher, Run, Written
from broker.streams.keys import CONTACTS_CHANGED, RECORDED, REVOKED, keys_where
from broker.streams.link import Link
from broker.streams.mailbox import Mailboxes
from broker.streams.notifications import Notices, hear_receipts
from broker.streams.presence import Presence
from broker.streams.registry import Registry
from broker.streams.revocation import say_revoked
from broker.streams.sessions import Sessions
from schema.errors import StreamsUnavailable, Unavailable
from schema.message import Envelope

BUFFERED: Final = "buffered"


def wall_ms() -> int:
    """Return the host's clock in ms since the epoch."""
    return time.time_ns() // 1_000_000


class Services:
    """Made once by `serve`, closed by it. `contract`: the OpenAPI document. `draining`: about to end."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        *,
        gateway_id: str,
        policy: AddressPolicy,
        contract: bytes,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self.settings = settings
        self.pool = pool
        self.gateway_id = gateway_id
        self.policy = policy
        self.contract = contract
        self.now_ms = now_ms
        self.draining = False
        self.joined = False
        """Whether the deployment has as many shards as we; else a message could go where nobody looks."""
        self.durability = BUFFERED if settings.durability == "everysec" else None
        self.link = Link(settings.redis_url, name=f"gateway-{gateway_id}")
        self.publisher = Publisher(
            settings.redis_url,
            shards=settings.shards,
            name=f"gateway-{gateway_id}",
            fair_rate_per_s=settings.fair_rate_per_s,
            keys=keys_where(signed=settings.require_signed_ingress),
        )
        self.presence = Presence(self.link, shards=settings.shards)
        self.beats = Beats(self.presence, shards=settings.shards)
        self.comebacks = Comebacks(pool)
        self.allowances = Allowances(self.link, shards=settings.shards)
        self.mailboxes = Mailboxes(self.link, shards=settings.shards)
        self.registry = Registry(self.link)
        self.waiters = Waiters()
        self.notices = Notices(settings.redis_url)
        hear_receipts(self.notices, gateway_id=gateway_id, on_receipts=self.waiters.on_receipts)
        self.arrivals = Arrivals()
        self.notices.on(RECORDED, self.arrivals.on_recorded)
        self.sender_names = SenderNames(pool)
        self.inbox_totals = Totals(pool)
        self.agents = KnownAgents(pool, settings.redis_url)
        self.lineage = Lineage()
        self.gatekeeper = Gatekeeper(pool, self.link, settings, now_ms=self.presence.now_ms)
        self.agents.on_change(self.gatekeeper.on_change)
        self.contacts = ContactBook(pool, self.link)
        self.notices.on(CONTACTS_CHANGED, self.contacts.on_word)
        self.keyring = Keyring(pool, operator_key=settings.agent_api_key, pepper=settings.key_pepper.encode())
        self.notices.on(REVOKED, self.keyring.on_changed)
        self.key_use = KeyUse(pool)
        self.signs_of_life = SignsOfLife(self.presence)
        self.acknowledger = Acknowledger(self.link, shards=settings.shards, now_ms=self.presence.now_ms)
        self.realtime = Hub(
            notices=self.notices,
            mailboxes=self.mailboxes,
            leases=Sessions(self.link, shards=settings.shards),
            agents=self.agents,
            keyring=self.keyring,
            now_ms=now_ms,
            is_killed=self.gatekeeper.is_killed,
        )
        self.gatekeeper.on_switches.append(self.realtime.doubt_all)

    async def publish(self, envelopes: Sequence[Envelope], *, waiter: str | None = None) -> None:
        """Publish; return when all are on disk. Raises: StreamsUnavailable, StreamsFull, Overloaded."""
        self._check_open()
        if len(envelopes) == 1:
            await self.publisher.publish(envelopes[0], waiter=waiter)
        else:
            await self.publisher.publish_many(envelopes, waiter=waiter)

    def begin_publishing(self, sender: str | None, message: Written) -> asyncio.Future[None]:
        """Publish one message; the future is done when it is on disk, or has what `publish` raises.

        Raises: StreamsUnavailable, Overloaded at once where nothing can be published.
        """
        self._check_open()
        return self.publisher.begin_written(sender, message)

    async def publish_runs(self, runs: Sequence[Run]) -> None:
        """Publish what was written already; return when all are on disk. Raises: as `publish`."""
        self._check_open()
        await self.publisher.publish_runs(runs)

    def _check_open(self) -> None:
        if not self.joined:
            raise StreamsUnavailable("the streams have not been reached yet")
        self.gatekeeper.check_memory()

    async def announce(self, agent_id: str) -> None:
        """Tell every process with a directory that an agent changed, where Redis can be reached. The row is
        written already: a failure here must not look like one of that."""
        with suppress(Unavailable):
            await self.registry.announce(agent_id)

    async def keys_changed(self, key_ids: Sequence[str]) -> None:
        """Look these keys up anew, here now, and on every gateway as soon as it hears (else within 30 s)."""
        for key_id in key_ids:
            self.keyring.forget(key_id)
        if key_ids:
            with suppress(Unavailable):
                await say_revoked(await self.link.get(), key_ids)

    async def close(self) -> None:
        """Close the connections to Redis; the pool belongs to whoever opened it."""
        await self.publisher.close()
        await self.link.close()
