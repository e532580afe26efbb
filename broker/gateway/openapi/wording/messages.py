"""Words: messages, attempts, routes, dead letters, inboxes."""

from typing import Final

from broker.gateway.openapi.wording.word import (
    A_LATER_MOMENT,
    AN_ID,
    Word,
    Words,
    agent,
    both,
    choice,
    count,
    id_,
    moment,
    object_,
    text,
    whole,
)
from schema import limits
from schema.message import Status

_STATUSES: Final = tuple(status.value for status in Status)
_STATUS: Final = choice("Where it is in its life.", *_STATUSES)

MESSAGES: Final[Words] = {
    "message_id": id_("The message."),
    "MessageView.id": id_("The message."),
    "MessageView.status": _STATUS,
    "ListMessages.status": _STATUS,
    "InboxMessage.status": _STATUS,
    "MarkReadReply.status": _STATUS,
    "RouteView.status": _STATUS,
    "StatusChange.status": choice("What became of it.", "processed", "failed", "declined", "cancelled"),
    "InboxQuery.status": choice("Only messages that are so; `all` for every one.", *_STATUSES, "all"),
    "InboxQuery.type": Word("Only messages of this type.", "task"),
    "ListDeadLetters.message_type": Word("Only messages of this type.", "task"),
    "ReplayRequest.message_type": Word("Only messages of this type.", "task"),
    "InboxMessage.type": Word("The type of the message.", "task"),
    "SendRequest.id": id_("The sender's own id for it: sent again under the same id it is sent once."),
    "from_agent_id": agent("The sender. May be left out with an agent's own key; another agent's is 403."),
    "to_agent_id": agent("The recipient."),
    "SendRequest.to_agent_id": agent("The recipient. Without one, `requirements` say who is capable."),
    "caused_by": id_(
        "The message whose handling makes the sender send this one, where it is no reply to it: hops are "
        "counted, and both go back to the same root.",
        None,
    ),
    "conversation_id": text("Groups messages; free text.", "cars-2026-01", limits.CONVERSATION_ID_CHARS_MAX),
    "message_type": text(
        "Free text (`task`, `response`, `status`, `error`, `question` are usual).",
        "task",
        limits.MESSAGE_TYPE_CHARS_MAX,
        chars_min=1,
    ),
    "priority": Word(
        "1 (highest) to 10.", 5, **both(minimum=limits.PRIORITY_MIN, maximum=limits.PRIORITY_MAX)
    ),
    "content": object_("Any JSON object.", {"task_type": "scrape", "parameters": {"make": "honda"}}),
    "metadata": Word(
        "Any JSON object. `retry_policy` (`exponential_backoff`, `fixed`, `none`), `max_retries` and "
        "`timeout` (seconds per attempt) govern delivery within the deployment's bounds.",
        {"max_retries": 3, "timeout": 30},
        asked={"type": ["object", "null"]},
        shown={"type": "object"},
    ),
    "requirements": Word(
        "Capabilities the recipient must have, all of them.",
        ["scrape", "honda"],
        asked={"maxItems": limits.REQUIREMENTS_MAX},
    ),
    "SendRequest.expires_at": moment("When it is of no use any more.", A_LATER_MOMENT),
    "MessageView.expires_at": moment("When it is of no use any more; null: never.", A_LATER_MOMENT),
    "InboxMessage.expires_at": moment("When it is of no use any more; null: never.", A_LATER_MOMENT),
    "deliver_at": moment("Not before this moment.", None),
    "delivered_at": moment("When its recipient took it.", None),
    "processed_at": moment("When its recipient said it was done.", None),
    "next_attempt_at": moment("When the next push is due.", None),
    "reply_to": id_("The message this one answers.", None),
    "root_id": id_("The message at the root of a chain of answers."),
    "hop": count("How many answers it is away from its root.", 0),
    "retry_count": count("Pushes beyond the first.", 0),
    "result": Word("What the recipient made of it; any JSON.", None),
    "StatusChange.result": Word("What the recipient made of it; any JSON.", {"found": 42}),
    "durability": Word(
        "`buffered` where the deployment does not sync every publish; else absent.", "buffered"
    ),
    "wait": Word("Which rung to wait for before replying.", "accepted"),
    "timeout_ms": whole(
        "How long to wait for that; running out of time is no error.", 1_000, 0, limits.WAIT_MS_MAX
    ),
    "results": Word("What became of each message, in the order of the request."),
    "BatchResult.id": id_("The message, where it was accepted."),
    # --- attempts, routes ---------------------------------------------------------------------------------
    "attempt": Word("Counts from 1 within a round.", 1, shown={"minimum": 1}),
    "AttemptView.status": choice("How it ended.", "success", "failed", "timeout"),
    "AttemptView.error": Word("What went wrong, where no answer says it.", None),
    "response_code": Word("The endpoint's HTTP status.", 200),
    "response_body": Word("The beginning of the endpoint's answer.", '{"ok": true}'),
    "duration_ms": count("How long it took.", 12),
    "attempted_at": moment("When it began."),
    "AttemptView.agent_id": agent("Whose attempt it was: capabilities may have chosen several in turn."),
    "round": count("Counts replays of the message from 0.", 0),
    "route": Word(
        "The decision: candidates, what dropped each, scores; null when the sender named the recipient.",
        None,
        shown={"type": ["object", "null"]},
    ),
    "by": choice("How the recipient is found.", "capability", "name"),
    "outcome": choice(
        "`chosen`; `parked`: nobody can take it now, it would wait; `refused`: it would end at once.",
        *("chosen", "parked", "refused"),
    ),
    "ExplainReply.reason": Word("How it was chosen, or why not.", "least_loaded_of_two"),
    "ExplainReply.to_agent_id": agent("Who would get it; among equals chance decides anew each time."),
    "having": Word("How many agents have each capability.", {"scrape": 12, "honda": 3}),
    "candidates": Word("Capable agents, looked at one by one."),
    "notes": Word("What this answer cannot know.", []),
    "remaining": Word("How many agents each filter left."),
    "registered": count("Agents there are.", 40),
    "capable": count("Of them, with all the capabilities.", 3),
    "active": count("Of them, active.", 3),
    "heard": count("Of them, heard from lately.", 2),
    "accepting": count("Of them, taking this type of message.", 2),
    "allowed": count("Of them, letting this sender write to them.", 2),
    "examined": count("Of them, looked at one by one.", 2),
    "below_capacity": count("Of those examined, with room.", 1),
    "dropped_by": Word("The first filter it did not pass; null: none.", None),
    "load": Word("Messages it has now, relative to its capacity.", 0.2),
    "success_rate": Word("Of its last deliveries, how many went well.", 0.98),
    "latency_ms": Word("How long it took for them.", 42),
    "score": Word("What was compared; lower is better.", 0.21),
    "chosen": Word("Whether it would get the message.", True),
    # --- inboxes ------------------------------------------------------------------------------------------
    "total_messages": count("How many match in all, on this page and others."),
    "total_is_lower_bound": Word("Whether there are more than `total_messages`.", False),
    "messages": Word("The messages, by priority and age."),
    "from_agent": Word("Who sent it; null where no agent did."),
    "subject": Word("`subject` of its content, if that is a text.", "we should talk"),
    "body": Word("`body` (or `message`) of its content, if that is a text.", "about Ohio"),
    "read_at": moment("When it was read first."),
    "last_event_id": Word(
        "Go on after this event; the header `Last-Event-ID` says the same.", "1769000000000-0"
    ),
    "watch": Word(
        "Tell of the presence of these agents, ids or names; `*` for all.",
        ["*"],
        asked={"maxItems": limits.WATCHED_AGENTS_MAX},
    ),
    "prefetch": whole(
        "Over a WebSocket: how many messages may be under way without an acknowledgement.",
        limits.PREFETCH_DEFAULT,
        1,
        limits.PREFETCH_MAX,
    ),
    # --- dead letters -------------------------------------------------------------------------------------
    "ReplayRequest.ids": Word(
        "These messages; or leave it out and filter.",
        [AN_ID],
        asked={
            "minItems": 1,
            "maxItems": limits.REPLAY_MESSAGES_MAX,
            "items": {"type": "string", "format": "uuid"},
        },
    ),
    "ReplayRequest.limit": Word(
        f"How many at most; more than {limits.REPLAY_MESSAGES_MAX} means {limits.REPLAY_MESSAGES_MAX}.",
        100,
        asked={"minimum": 1},
    ),
    "skipped_reasons": Word("Why, by id.", {}),
    "matching": Word(
        "How many dead letters the filter finds, told where it begins (without a cursor); "
        f"{limits.REPLAY_COUNTED_MAX} means so many or more.",
        None,
    ),
    "ListDeadLetters.until": moment("Only before this moment."),
    "ReplayRequest.until": moment("Only before this moment."),
    "ListDeadLetters.reason": Word("Only those that ended for this reason.", "exhausted"),
    "ReplayRequest.reason": Word("Those that ended for this reason.", "exhausted"),
    "replayed": count("Sent again, in a new round."),
    "skipped": count("Not sent again.", 0),
    "skipped_ids": Word("Which: unknown, not yours, not dead, too old, or without a destination.", []),
    "more": Word("Whether there are further ones; `next_cursor` goes on behind these.", False),
}
