"""Dead letters: what failed or expired, listed and replayed.

A replay makes rows pending in their next round and puts the messages into the outbox, in one transaction: it
happens whole or not at all, whenever a process dies. They are published right after the commit; what that
does not manage the keeper does. Of two replays at once each message goes to one, which holds its row's lock.

In bulk: call by call, each bounded, with the cursor of the one before. Nothing is kept between the calls that
could be lost: whoever stopped in the middle goes on from the last cursor, or begins anew, which finds what is
still dead.
"""

import asyncio
from contextlib import suppress
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
from broker.store import dead_letters, outbox
from broker.store.dead_letters import DeadLetterFilter, WholeLetter
from broker.store.page import Page
from broker.telemetry import logs, metrics
from schema import limits
from schema.dead_letter import DeadLetter, ReplayReply, ReplayRequest, Skip
from schema.errors import (
    NotAContact,
    RateLimited,
    RecipientDisabled,
    Unavailable,
    UnknownRecipient,
)
from schema.ids import is_id
from schema.message import Envelope
from schema.times import as_utc, from_ms

PUBLISH_S: Final = 8.0
"""Patience with Redis of one call; longer than that is the keeper's affair."""
DAY_MS: Final = 24 * 3600 * 1000
FILTERS: Final = (*("agent_id", "from_agent_id", "to_agent_id", "reason", "message_type", "since", "until"),)

_REPLAYED: Final = metrics.DEAD_LETTERS_REPLAYED.child(outcome="replayed")
_SKIPPED: Final = metrics.DEAD_LETTERS_REPLAYED.child(outcome="skipped")


class ListDeadLetters(Struct):
    """Query of `GET /api/dead-letters`."""

    agent_id: str | None = None
    from_agent_id: str | None = None
    to_agent_id: str | None = None
    reason: str | None = None
    message_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = LIMIT_DEFAULT
    cursor: str | None = None


def check_list(query: ListDeadLetters, faults: Faults) -> None:
    """Note everything wrong with the query of a list of dead letters."""
    if query.limit < 1:
        faults.add("limit", f"must be 1 to {limits.PAGE_ROWS_MAX}")
    _check_times(query, faults)


def check_replay(request: ReplayRequest, faults: Faults) -> None:
    """Note everything wrong with a replay."""
    filters = [getattr(request, name) for name in FILTERS]
    if request.ids is not None:
        if any(given is not None for given in (*filters, request.limit, request.cursor)):
            faults.add("ids", "either ids, or a filter")
        if not 1 <= len(request.ids) <= limits.REPLAY_MESSAGES_MAX:
            faults.add("ids", f"must be 1 to {limits.REPLAY_MESSAGES_MAX} ids")
        for index, message_id in enumerate(request.ids[: limits.REPLAY_MESSAGES_MAX]):
            if not is_id(message_id.lower()):
                faults.add(f"ids[{index}]", "must be a UUID")
    elif all(given is None for given in filters):
        faults.add("ids", f"name ids, or at least one of {', '.join(FILTERS)}")
    if request.limit is not None and request.limit < 1:
        faults.add("limit", f"must be 1 to {limits.REPLAY_MESSAGES_MAX}")
    _check_times(request, faults)


async def list_(call: Call[None, ListDeadLetters]) -> Reply:
    """List messages that failed or expired, newest first, each with its `status_reason`. `agent_id` is the
    recipient or the sender; an agent's own key sees its own. `since` (included) and `until` (not included)
    are about when they were created."""
    query = call.query
    wanted = await _filter(call, query, min(query.limit, limits.PAGE_ROWS_MAX))
    page = await dead_letters.list_page(call.services.pool, wanted)
    named = [
        (name, as_utc(value).isoformat() if isinstance(value, datetime) else value)
        for name in FILTERS
        if (value := getattr(query, name)) is not None
    ]
    headers = page_headers("/api/dead-letters", [*named, ("limit", str(query.limit))], page.cursor)
    return Reply(body=page.items, headers=headers)


async def replay(call: Call[ReplayRequest, NoQuery]) -> Reply:
    """Send dead letters again: those named, or those a filter finds, newest first, up to 100 in a call.

    Each keeps its id and gets a new round of attempts; one that named capabilities is routed anew; one that
    had expired does not expire again. `next_cursor` goes on behind them: a message that fails again is a dead
    letter again, so asking without it may find the same ones. What cannot be sent again is skipped, and
    `skipped_reasons` says why. Once this is answered they are on their way, also where Redis is away.
    """
    request, services = call.body, call.services
    page: Page[DeadLetter] = Page([])
    matching = None
    if request.ids is not None:
        await _whose(call, None)
        ids = list(dict.fromkeys(message_id.lower() for message_id in request.ids))
    else:
        at_most = min(request.limit or limits.REPLAY_MESSAGES_MAX, limits.REPLAY_MESSAGES_MAX)
        wanted = await _filter(call, request, at_most)
        page = await dead_letters.list_page(services.pool, wanted)
        ids = [letter.id for letter in page.items]
        if request.cursor is None:
            matching = len(ids)
            if page.cursor is not None:
                matching = await dead_letters.count(services.pool, wanted, at_most=limits.REPLAY_COUNTED_MAX)
    replayed, skipped = await _replay(services, ids, call.principal.agent_id)
    _REPLAYED.inc(len(replayed))
    _SKIPPED.inc(len(skipped))
    logs.event("dead_letters.replayed", replayed=len(replayed), skipped=len(skipped))
    return Reply(
        body=ReplayReply(
            replayed=len(replayed),
            skipped=len(skipped),
            skipped_ids=list(skipped),
            skipped_reasons={message_id: why.value for message_id, why in skipped.items()},
            more=page.cursor is not None,
            next_cursor=page.cursor,
            matching=matching,
        )
    )


async def _replay(
    services: Services, ids: list[str], own: str | None
) -> tuple[list[Envelope], dict[str, Skip]]:
    """Replay those of the messages that can be; return them, and why not the others. `own`: only an agent's
    own, if given."""
    if not ids:
        return [], {}
    outcome: dict[str, Envelope | Skip] = dict.fromkeys(ids, Skip.NOT_A_DEAD_LETTER)
    if own is not None:
        # Before the transaction: contacts are asked for over a connection of their own, and who holds one
        # while it waits for another keeps everybody else, and in the end itself, from getting any.
        judged = await _judged(services, ids, own)
        outcome |= {message_id: why for message_id, why in judged.items() if why is not None}
        # What has died only since then was not judged.
        ids = [message_id for message_id in ids if message_id in judged and judged[message_id] is None]
    async with services.pool.transaction() as connection:
        for one in await dead_letters.lock(connection, ids):
            if _is_of(one, own):
                outcome[one.letter.id] = _again(services, one)
        envelopes = [one for one in outcome.values() if isinstance(one, Envelope)]
        await dead_letters.restart(connection, envelopes)
        await outbox.add(connection, *envelopes)
    if envelopes:
        await publish_committed(services, envelopes)
    return envelopes, {message_id: one for message_id, one in outcome.items() if isinstance(one, Skip)}


def _is_of(one: WholeLetter, own: str | None) -> bool:
    return own is None or own in (one.letter.from_agent_id, one.letter.to_agent_id)


async def _judged(services: Services, ids: list[str], own: str) -> dict[str, Skip | None]:
    """Return of an agent's own dead letters why each is not sent again; None where it can be. Its recipient
    may not take it of this agent (any more)."""
    judged: dict[str, Skip | None] = {}
    for one in await dead_letters.read(services.pool, ids):
        if _is_of(one, own):
            again = _again(services, one)
            if isinstance(again, Skip):
                judged[one.letter.id] = again
            else:
                judged[one.letter.id] = None if await _is_taken(services, again, own) else Skip.NOT_TAKEN
    return judged


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


async def publish_committed(services: Services, envelopes: list[Envelope]) -> None:
    """Publish what lies in the outbox; what cannot be published now the keeper publishes."""
    with suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(PUBLISH_S):
            await services.publish(envelopes)
            await outbox.remove(services.pool, [outbox.row_of(envelope) for envelope in envelopes])


def age_ms_max(services: Services) -> int:
    """Return how old a message may be that begins another round: it is to end before it is dropped."""
    retention_ms = services.settings.message_retention_days * DAY_MS
    return max(retention_ms - limits.REPLAY_MARGIN_MS, retention_ms // 2)


def _again(services: Services, one: WholeLetter) -> Envelope | Skip:
    return next_round(
        one.letter,
        requirements=one.requirements,
        chosen=one.chosen,
        now=from_ms(services.now_ms()),
        age_ms_max=age_ms_max(services),
    )


async def _filter(
    call: Call[Any, Any],  # any body, any query
    given: ListDeadLetters | ReplayRequest,
    limit: int,
) -> DeadLetterFilter:
    """Return what is asked for, agents by id. Raises: NotFound for one that does not exist, AgentMismatch."""
    agents = call.services.agents
    return DeadLetterFilter(
        agent_id=await _whose(call, given.agent_id),
        from_agent_id=await agents.named_if_given(given.from_agent_id),
        to_agent_id=await agents.named_if_given(given.to_agent_id),
        reason=given.reason,
        message_type=given.message_type,
        since=given.since and as_utc(given.since),
        until=given.until and as_utc(given.until),
        limit=limit,
        cursor=given.cursor,
    )


async def _whose(call: Call[Any, Any], named: str | None) -> str | None:  # any body, any query
    """Return the agent whose dead letters are meant: an agent's own; None: an operator means everybody's.

    Raises: NotFound for an agent that does not exist, AgentMismatch.
    """
    if call.principal.agent_id is not None:
        return await acting_agent(call, named)
    # An empty name is nobody's, not everybody's.
    return await call.services.agents.named_if_given(call.claimed_agent if named is None else named)


def _check_times(given: ListDeadLetters | ReplayRequest, faults: Faults) -> None:
    for field in ("since", "until"):
        moment: datetime | None = getattr(given, field)
        if moment is None:
            continue
        try:
            as_utc(moment)
        except OverflowError:
            faults.add(field, "is outside the years 1 to 9999 in UTC")
