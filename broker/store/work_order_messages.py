"""The messages that tell of work orders: who is offered one, and what became of it.

Each is marked as part of the order's conversation. Updates are automatic messages: nothing ever answers them
by itself, so two brokers' worth of bounces cannot arise from one change.
"""

from collections.abc import Iterable
from datetime import datetime

import asyncpg
from msgspec import UNSET, Raw

from broker.core.work_order_notices import Particulars, Told
from broker.core.work_orders import Change
from broker.store.work_orders import budget_of
from schema.codec import encode
from schema.ids import new_id
from schema.message import Envelope
from schema.times import from_ms
from schema.work_order import MESSAGE_OFFER, MESSAGE_UPDATE, OfferContent, UpdateContent

_AUTOMATIC = Raw(b'{"automatic":true}')


def offers_of(row: asyncpg.Record, agents: Iterable[str], *, now_ms: int) -> list[Envelope]:
    """Return a message for each agent that has been given, or offered, the order of this row."""
    content = OfferContent(
        work_order_id=str(row["id"]),
        title=row["title"],
        description=row["description"],
        requirements=Raw(row["requirements"].encode()),
        budget_usd=budget_of(row["budget_usd"]),
        deadline_at=row["deadline_at"],
        capabilities=list(row["capabilities"]),
        status=row["status"],
    )
    raw, at = Raw(encode(content)), from_ms(now_ms)
    requester = str(row["requester_id"])
    return [
        _envelope(
            str(row["id"]), MESSAGE_OFFER, to=agent, sender=requester, at=at, content=raw, metadata=Raw(b"{}")
        )
        for agent in agents
    ]


def updates_of(
    row: asyncpg.Record, change: Change, said: Particulars, told: Iterable[Told], *, now_ms: int
) -> list[Envelope]:
    """Return a message for each agent that is told of a change to the order of this row."""
    content = UpdateContent(
        work_order_id=str(row["id"]),
        status=change.after.status.value,
        action=change.action.value,
        title=row["title"],
        by=change.by.value,
        reason=said.reason,
        note=said.note,
        percent=said.percent,
        estimated_completion=said.estimated,
        result=UNSET if said.result is None else said.result,
    )
    # Of the work only its two sides hear more than that the order is gone.
    bare = UpdateContent(
        work_order_id=content.work_order_id,
        status=content.status,
        action=content.action,
        title=content.title,
        by=content.by,
    )
    at, sides = from_ms(now_ms), (change.after.requester_id, change.after.worker_id)
    whole_raw, bare_raw = Raw(encode(content)), Raw(encode(bare))
    return [
        _envelope(
            content.work_order_id,
            MESSAGE_UPDATE,
            to=one.to,
            sender=one.sender,
            at=at,
            content=whole_raw if one.to in sides else bare_raw,
            metadata=_AUTOMATIC,
        )
        for one in told
    ]


def _envelope(
    order_id: str,
    message_type: str,
    *,
    to: str,
    sender: str | None,
    at: datetime,
    content: Raw,
    metadata: Raw,
) -> Envelope:
    message_id = new_id()
    return Envelope(
        id=message_id,
        from_agent_id=sender,
        to_agent_id=to,
        conversation_id=order_id,
        message_type=message_type,
        content=content,
        metadata=metadata,
        created_at=at,
        root_id=message_id,
    )
