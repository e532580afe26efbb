"""Dead letters: what failed or expired, listed and replayed.

A replay publishes while it holds the rows' locks, and makes them pending before it lets go: of two replays at
once each message goes to one. When it dies after publishing, the ledger brings the rows to the new round, and
a replay of the same round within the deduplication window is dropped.
"""

import asyncio
from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from broker.core.replay import next_round
from broker.gateway.access import acting_agent
from broker.gateway.call import Call, NoQuery, Reply
from broker.gateway.coordination import admission
from broker.gateway.paging import LIMIT_DEFAULT, page_headers
from broker.gateway.reading import Faults
from broker.gateway.services import Services
from broker.store import dead_letters
from broker.store.dead_letters import DeadLetterFilter, LockedLetter
from broker.store.page import Page
from broker.telemetry import logs, metrics
from schema import limits
from schema.dead_letter import DeadLetter, ReplayReply, ReplayRequest
from schema.errors import (
    NotAContact,
    NotFound,
    RateLimited,
    RecipientDisabled,
    StreamsUnavailable,
    UnknownRecipient,
)
from schema.ids import is_id
from schema.message import Envelope
from schema.times import as_utc, from_ms

PUBLISH_S: Final = 8.0
"""Patience with Redis while rows are locked: shorter than Postgres waits for an idle transaction."""

_REPLAYED: Final = metrics.DEAD_LETTERS_REPLAYED.child(outcome="replayed")
_SKIPPED: Final = metrics.DEAD_LETTERS_REPLAYED.child(outcome="skipped")


class ListDeadLetters(Struct):
    """Query of `GET /api/dead-letters`."""

    agent_id: str | None = None
    reason: str | None = None
    since: datetime | None = None
    limit: int = LIMIT_DEFAULT
    cursor: str | None = None


def check_list(query: ListDeadLetters, faults: Faults) -> None:
    """Note everything wrong with the query of a list of dead letters."""
    if query.limit < 1:
        faults.add("limit", f"must be 1 to {limits.PAGE_ROWS_MAX}")
    _check_since(query.since, faults)


def check_replay(request: ReplayRequest, faults: Faults) -> None:
    """Note everything wrong with a replay."""
    filters = (request.agent_id, request.reason, request.since)
    if request.ids is not None:
        if any(given is not None for given in (*filters, request.limit, request.cursor)):
            faults.add("ids", "either ids, or agent_id, reason and since")
        if not 1 <= len(request.ids) <= limits.REPLAY_MESSAGES_MAX:
            faults.add("ids", f"must be 1 to {limits.REPLAY_MESSAGES_MAX} ids")
        for index, message_id in enumerate(request.ids[: limits.REPLAY_MESSAGES_MAX]):
            if not is_id(message_id.lower()):
                faults.add(f"ids[{index}]", "must be a UUID")
    elif all(given is None for given in filters):
        faults.add("ids", "name ids, or at least one of agent_id, reason and since")
    if request.limit is not None and request.limit < 1:
        faults.add("limit", f"must be 1 to {limits.REPLAY_MESSAGES_MAX}")
    _check_since(request.since, faults)


async def list_(call: Call[None, ListDeadLetters]) -> Reply:
    """List messages that failed or expired, newest first, each with its `status_reason`. `agent_id` is the
    recipient or the sender; an agent's own key sees its own. `since` is about when they were created."""
    query = call.query
    agent_id = await _whose(call, query.agent_id)
    page = await dead_letters.list_page(
        call.services.pool,
        DeadLetterFilter(
            agent_id=agent_id,
            reason=query.reason,
            since=query.since and as_utc(query.since),
            limit=min(query.limit, limits.PAGE_ROWS_MAX),
            cursor=query.cursor,
        ),
    )
    given = [("agent_id", query.agent_id), ("reason", query.reason)]
    since = None if query.since is None else as_utc(query.since).isoformat()
    named = [(name, value) for name, value in (*given, ("since", since)) if value is not None]
    headers = page_headers("/api/dead-letters", [*named, ("limit", str(query.limit))], page.cursor)
    return Reply(body=page.items, headers=headers)


async def replay(call: Call[ReplayRequest, NoQuery]) -> Reply:
    """Send dead letters again: those named, or those a filter finds, newest first, up to 100 in a call.

    Each keeps its id and gets a new round of attempts; one that named capabilities is routed anew; one that
    had expired does not expire again. `next_cursor` goes on behind them: a message that fails again is a dead
    letter again, so asking without it may find the same ones. Messages that are not dead are skipped.
    """
    request, services = call.body, call.services
    agent_id = await _whose(call, request.agent_id)
    if request.ids is not None:
        ids = list(dict.fromkeys(message_id.lower() for message_id in request.ids))
        page: Page[DeadLetter] = Page([])
    else:
        page = await dead_letters.list_page(
            services.pool,
            DeadLetterFilter(
                agent_id=agent_id,
                reason=request.reason,
                since=request.since and as_utc(request.since),
                limit=min(request.limit or limits.REPLAY_MESSAGES_MAX, limits.REPLAY_MESSAGES_MAX),
                cursor=request.cursor,
            ),
        )
        ids = [letter.id for letter in page.items]
    replayed = await _replay(services, ids, call.principal.agent_id)
    skipped = [message_id for message_id in ids if message_id not in replayed]
    _REPLAYED.inc(len(replayed))
    _SKIPPED.inc(len(skipped))
    logs.event("dead_letters.replayed", replayed=len(replayed), skipped=len(skipped))
    return Reply(
        body=ReplayReply(
            replayed=len(replayed),
            skipped=len(skipped),
            skipped_ids=skipped,
            more=page.cursor is not None,
            next_cursor=page.cursor,
        )
    )


async def _replay(services: Services, ids: list[str], own: str | None) -> set[str]:
    """Replay those of the messages that can be; return their ids. `own`: only an agent's own, if given."""
    if not ids:
        return set()
    async with services.pool.transaction() as connection:
        locked = await dead_letters.lock(connection, ids)
        envelopes = [
            envelope
            for one in locked
            if own is None or own in (one.letter.from_agent_id, one.letter.to_agent_id)
            if (envelope := _again(one, services.now_ms())) is not None
            if own is None or await _is_taken(services, envelope, own)
        ]
        if envelopes:
            await _publish(services, envelopes)
            await dead_letters.restart(connection, envelopes)
    return {envelope.id for envelope in envelopes}


async def _is_taken(services: Services, envelope: Envelope, own: str) -> bool:
    """Tell whether the recipient named takes this message of the agent: it may have decided otherwise since
    it was sent. What it sends itself again it takes. Raises: StoreUnavailable, StreamsUnavailable."""
    if envelope.to_agent_id is None or own == envelope.to_agent_id:
        return True
    try:
        _, record = await admission.addressed(services, envelope.to_agent_id)
        if record is not None:
            await admission.admit(services, own, record, message_type=envelope.message_type)
    except (UnknownRecipient, RecipientDisabled, NotAContact, RateLimited):
        return False
    return True


async def _publish(services: Services, envelopes: list[Envelope]) -> None:
    try:
        async with asyncio.timeout(PUBLISH_S):
            await services.publish(envelopes)
    except TimeoutError:
        raise StreamsUnavailable("the streams did not answer in time") from None


def _again(one: LockedLetter, now_ms: int) -> Envelope | None:
    return next_round(one.letter, requirements=one.requirements, chosen=one.chosen, now=from_ms(now_ms))


async def _whose(call: Call[Any, Any], named: str | None) -> str | None:  # any body, any query
    """Return the agent whose dead letters are meant: an agent's own; None: an operator means everybody's.

    Raises: NotFound for an agent that does not exist, AgentMismatch.
    """
    if call.principal.agent_id is not None:
        return await acting_agent(call, named)
    # An empty name is nobody's, not everybody's.
    reference = call.claimed_agent if named is None else named
    if reference is None:
        return None
    found = await call.services.agents.find(reference)
    if found is None:
        raise NotFound(f"no agent is known as {reference[:80]!r}")
    return found


def _check_since(since: datetime | None, faults: Faults) -> None:
    if since is None:
        return
    try:
        as_utc(since)
    except OverflowError:
        faults.add("since", "is outside the years 1 to 9999 in UTC")
