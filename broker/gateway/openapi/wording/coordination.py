"""Words: presence, pings, contacts, work orders, statistics."""

from typing import Any, Final

from broker.gateway.openapi.wording.word import (
    A_LATER_MOMENT,
    AN_AGENT,
    AN_ID,
    Word,
    Words,
    agent,
    choice,
    count,
    id_,
    moment,
    object_,
    text,
    whole,
)
from schema import limits
from schema.contact import ContactStatus
from schema.work_order import Action, OrderStatus, Party

_ORDER_STATUS: Final = choice("Where it is in its life.", *(status.value for status in OrderStatus))
_REQUIREMENTS: Final = object_("What exactly is wanted; any JSON object.", {"make": "honda", "cars": 200})
_AMOUNT: Final[dict[str, Any]] = {"type": "number", "minimum": 0}  # parts of a JSON Schema
_DIGITS: Final = rf"^[0-9]{{1,{limits.BUDGET_WHOLE_DIGITS_MAX}}}(\.[0-9]{{1,{limits.BUDGET_DECIMALS_MAX}}})?$"

COORDINATION: Final[Words] = {
    # --- presence, pings ----------------------------------------------------------------------------------
    "state": choice(
        "`online`: heard from within a minute. `away`: not for a while. `gone`: silent for so long that "
        "nothing is routed to it by capability, or never heard of.",
        *("online", "away", "gone"),
    ),
    "last_heartbeat_at": moment("Its last sign of life; null if there was none."),
    "agent_ids": Word(
        f"The agents that are there, 1 to {limits.HEARTBEATS_MAX:,}, by their ids.",
        [AN_AGENT],
        {"minItems": 1, "maxItems": limits.HEARTBEATS_MAX, "items": {"type": "string", "format": "uuid"}},
    ),
    "SignsOfLife.agents": count("Agents that were noted: each counts once.", 1),
    "active_jobs": count("Work orders it has accepted and not finished.", 0),
    "PingRequest.message": text("What to say.", "are you there?", limits.PING_MESSAGE_CHARS_MAX),
    "target_agent": Word("Who was pinged."),
    "PingTarget.id": id_("The agent.", AN_AGENT),
    # --- contacts -----------------------------------------------------------------------------------------
    "ContactRequest.to_agent_id": agent("Who is asked."),
    "ContactRequest.subject": text(
        "What it is about.", "we should talk", limits.CONTACT_SUBJECT_CHARS_MAX, chars_min=1
    ),
    "ContactRequest.body": text("More of it.", "about Ohio", limits.CONTACT_BODY_CHARS_MAX),
    "contact_status": Word("`accepted` when the two are contacts already."),
    "ListContacts.status": choice("Only those.", *(status.value for status in ContactStatus)),
    "contacts": Word("In the order they began."),
    "peer": agent("The other side of the contact."),
    "Peer.id": id_("The agent.", AN_AGENT),
    "direction": Word("`incoming`: the peer asked. `outgoing`: this agent did.", "incoming"),
    "is_active": Word("Whether both may write to each other because of it, now.", True),
    "rate_per_minute": whole(
        "Messages a minute the side that asked may send; null: no bound.",
        60,
        1,
        limits.CONTACT_RATE_PER_MINUTE_MAX,
    ),
    "decided_at": moment("When it was accepted or declined.", None),
    "ContactAnswer.action": Word("What to answer.", "accept"),
    "ContactAnswer.expires_at": moment("Until when; goes with accepting.", A_LATER_MOMENT),
    "ContactAnswer.reason": text("Why.", "we know each other", limits.CONTACT_REASON_CHARS_MAX),
    "peer_id": id_("The other side.", AN_AGENT),
    # --- work orders --------------------------------------------------------------------------------------
    "work_order_id": id_("The work order.", AN_ID),
    "WorkOrderView.status": _ORDER_STATUS,
    "ListQuery.status": _ORDER_STATUS,
    "AgentName.id": id_("The agent.", AN_AGENT),
    "SenderView.id": id_("The agent.", AN_AGENT),
    "WorkOrderRequest.to_agent_id": agent("The worker. Without one, `capabilities` say who is offered it."),
    "WorkOrderRequest.capabilities": Word(
        "What the worker must be capable of: the first capable agent that accepts gets it.",
        ["scrape", "honda"],
        asked={"maxItems": limits.REQUIREMENTS_MAX},
    ),
    "WorkOrderView.capabilities": Word("What the worker must be capable of.", ["scrape", "honda"]),
    "WorkOrderRequest.title": text(
        "What it is, in a line.", "All Hondas in Ohio", limits.WORK_ORDER_TITLE_CHARS_MAX, chars_min=1
    ),
    "title": Word("What it is, in a line.", "All Hondas in Ohio"),
    "WorkOrderRequest.description": text(
        "What it is, at length.", "New and used.", limits.WORK_ORDER_DESCRIPTION_CHARS_MAX
    ),
    "description": Word("What it is, at length.", "New and used."),
    "WorkOrderRequest.requirements": _REQUIREMENTS,
    "WorkOrderView.requirements": _REQUIREMENTS,
    "WorkOrderRequest.budget_usd": Word(
        "An exact decimal; as text where the sender's numbers are not exact.",
        15000,
        asked={"anyOf": [_AMOUNT, {"type": "string", "pattern": _DIGITS}]},
    ),
    "budget_usd": Word("An exact decimal.", 15000),
    "deadline_at": moment("When it expires, if it is not done by then.", A_LATER_MOMENT),
    "from_agent": Word("Who asked for it."),
    "to_agent": Word("Who does it; null while nobody has accepted an open one."),
    "open": Word("Whether it is offered to any capable agent.", False),
    "lease_until": moment("Until when its worker has it to himself.", None),
    "accepted_at": moment("When it was accepted.", None),
    "finished_at": moment("When it ended.", None),
    "estimated_completion": moment("When the worker means to be done.", A_LATER_MOMENT),
    "percent": whole("How far it is.", 40, 0, 100),
    "WorkOrderView.percent": Word("How far it is.", None, shown={"minimum": 0, "maximum": 100}),
    "lease": text("The token that proves whose it is: from the reply to `accept`.", "3f1c5a9e", 128),
    "offered_to": count("To how many agents an open one went at once.", 3),
    "work_orders": Word("The newest first."),
    "role": choice("Which side of the orders the agent is on.", "worker", "requester"),
    "history": Word("All that happened to it, oldest first."),
    "seq": count("Counts from 1.", 1),
    "at": moment("When."),
    "WorkOrderEvent.action": choice("What happened.", *(action.value for action in Action)),
    "WorkOrderEvent.by": choice("Which side did it.", *(party.value for party in Party)),
    "actor": Word("Which agent did it; null where it was the broker."),
    "from": Word("The status before.", None),
    "to": Word("The status after.", "pending"),
    "detail": Word("What was said with it; an object.", {}, shown={"type": "object"}),
    "RespondRequest.action": choice("What to answer.", "accept", "reject"),
    "rejection_reason": text("Why not.", "too much to do", limits.WORK_ORDER_TEXT_CHARS_MAX),
    "CompleteRequest.reason": text("Why it failed.", "no such dealer", limits.WORK_ORDER_TEXT_CHARS_MAX),
    "CancelRequest.reason": text("Why.", "not needed any more", limits.WORK_ORDER_TEXT_CHARS_MAX),
    "CompleteRequest.result": Word(
        "What came of it; an object.", {"cars": 212}, asked={"type": ["object", "null"]}
    ),
    "failed": Word("Whether it could not be done.", False),
    "note": text("How it is going.", "half of the dealers", limits.WORK_ORDER_TEXT_CHARS_MAX),
    # --- statistics ---------------------------------------------------------------------------------------
    "days": whole(
        "Messages created today and on the days before, so many days in all; all there are without it.",
        7,
        1,
        limits.STATISTICS_DAYS_MAX,
    ),
    "by_status": Word("How many, by status.", {"processed": 40, "pending": 2}),
    "by_type": Word("How many, by type.", {"task": 42}),
    "delivery_success_rate": Word("Of those that ended, the part that ended well: 0 to 1.", 0.98),
    "average_delivery_ms": Word("From created (or scheduled) to delivered.", 12.5),
    "p95_delivery_ms": Word("Nineteen of twenty took no longer.", 40),
    "queue_depth": count("Pending now.", 2),
    "failure_reasons": Word("How many, by reason.", {"exhausted": 1}),
    "throughput": Word("The last 60 minutes, the current one last."),
    "minute": moment("When the minute begins."),
    "accepted": count("Created in it."),
    "delivered": count("Delivered in it."),
    "processed": count("Processed in it."),
    "generated_at": moment("When this was put together."),
    "StatisticsReply.since": Word("The first day counted; null: nothing was ever counted.", "2026-01-15"),
    "complete": Word("False while so much is to be counted that only part of it is in here.", True),
    "sent": Word("The same of what the agent sent; null for the whole deployment."),
    "StatisticsReply.work_orders": Word("Its work orders."),
    "agents_online": count("In the whole deployment; null while Redis is away.", 7),
    "as_worker": Word("By status, where the agent does the work; null for the whole deployment.", None),
    "as_requester": Word("By status, where the agent asked for it; null for the whole deployment.", None),
    "StatisticsReply.agent_id": agent("Whose; null: of the whole deployment."),
}
