"""What the fields of the contract mean: one sentence, an example, and bounds the types leave to the checks.

A word is found by `Type.field` first, then by `field` alone, so that a name means the same everywhere unless
a type says otherwise. `asked` is added to the schema where a client sends the field, `shown` where the
gateway does. A description or a bound in the type itself (`msgspec.Meta`) wins.
"""

from typing import Any, Final

from msgspec import Struct, field

from schema import limits
from schema.agent import AgentStatus, ContactPolicy, RetrySchedule
from schema.message import Status

Facets = dict[str, Any]  # parts of a JSON Schema
AN_ID: Final = "01939f2c-7c1e-7a33-9d4b-5f0c3f1a2b4d"
AN_AGENT: Final = "01939f2c-5b10-7c44-8f21-0d9e8c7b6a51"
A_MOMENT: Final = "2026-01-15T09:30:00Z"
A_LATER_MOMENT: Final = "2026-01-15T18:00:00Z"


class Word(Struct, frozen=True):
    """What a field means."""

    text: str
    example: Any = None  # any JSON
    asked: Facets = field(default_factory=dict)
    shown: Facets = field(default_factory=dict)


def word_for(owner: str, name: str) -> Word | None:
    """Return the word for a field of a type."""
    return WORDS.get(f"{owner}.{name}") or WORDS.get(name)


def _both(**facets: Any) -> dict[str, Facets]:  # Any: parts of a JSON Schema
    return {"asked": facets, "shown": facets}


def _agent(text: str) -> Word:
    """A reference to an agent: name or UUID where it is sent, always the UUID where it is shown."""
    asked = {"minLength": 1, "maxLength": limits.AGENT_NAME_CHARS_MAX}
    return Word(f"{text} Its UUID or its name.", AN_AGENT, asked, {"format": "uuid"})


def _id(text: str, example: str = AN_ID) -> Word:
    return Word(text, example, **_both(format="uuid"))


def _choice(text: str, *choices: str) -> Word:
    return Word(text, choices[0], **_both(enum=list(choices)))


def _moment(text: str, example: str | None = A_MOMENT) -> Word:
    return Word(text, example, **_both(format="date-time"))


def _words(text: str, example: str, chars_max: int, *, chars_min: int = 1) -> Word:
    return Word(text, example, asked={"minLength": chars_min, "maxLength": chars_max})


def _whole(text: str, example: int, least: int, most: int) -> Word:
    return Word(text, example, asked={"minimum": least, "maximum": most}, shown={"minimum": 0})


def _object(text: str, example: dict[str, Any]) -> Word:  # Any: JSON
    return Word(text, example, **_both(type="object"))


_AGENT_STATUS: Final = _choice(
    "`active` agents get messages, `paused` ones are skipped by routing by capability, `disabled` ones were "
    "switched off.",
    *(status.value for status in AgentStatus),
)
_LABELS: Final = {"maxItems": limits.CAPABILITIES_MAX}

WORDS: Final[dict[str, Word]] = {
    # --- anywhere -----------------------------------------------------------------------------------------
    "id": _id("A UUID."),
    "name": _words("The name.", "scraper_honda", limits.AGENT_NAME_CHARS_MAX),
    "limit": Word(
        f"How many at most; more than {limits.PAGE_ROWS_MAX} means {limits.PAGE_ROWS_MAX}.",
        20,
        asked={"minimum": 1},
    ),
    "cursor": Word("Where the page begins: the `X-Next-Cursor` (or `next_cursor`) of the one before."),
    "next_cursor": Word("Give it as `cursor` to get the next page; null on the last one."),
    "created_at": _moment("When it was made."),
    "updated_at": _moment("When it last changed."),
    "success": Word("Always true: what went wrong is an error.", True),
    "status": _choice("Where it is in its life.", *(status.value for status in Status)),
    "total": Word("How many there are in all.", 1, shown={"minimum": 0}),
    # --- agents -------------------------------------------------------------------------------------------
    "AgentView.id": _id("The agent.", AN_AGENT),
    "RegisteredAgent.id": _id("The agent.", AN_AGENT),
    "RegisterRequest.name": _words(
        "Unique; no slashes, braces or bars, nothing that looks like a UUID.",
        "scraper_honda",
        limits.AGENT_NAME_CHARS_MAX,
    ),
    "RegisterRequest.status": _AGENT_STATUS,
    "AgentView.status": _AGENT_STATUS,
    "RegisteredAgent.status": _AGENT_STATUS,
    "ListAgents.status": _AGENT_STATUS,
    "type": _words(
        "What kind of agent: free text (`claude`, `discord_bot`, `scraper`, `api_server` are usual).",
        "scraper",
        limits.AGENT_TYPE_CHARS_MAX,
    ),
    "endpoint": Word(
        "Where messages are pushed to, http or https; null for an agent that pulls.",
        "https://agents.example.com/hook",
        asked={"maxLength": limits.ENDPOINT_CHARS_MAX},
    ),
    "capabilities": Word("What the agent can do; routing compares them.", ["scrape", "honda"], asked=_LABELS),
    "capability": Word(
        "Only agents that can do this. Repeatable: all of them.",
        ["scrape"],
        asked={"maxItems": limits.REQUIREMENTS_MAX},
    ),
    "online": Word("Only agents that are online (true), or that are not (false).", True),
    "max_concurrent_jobs": _whole(
        "Jobs the agent takes at a time; routing looks for one with room.", 10, 1, limits.CONCURRENT_JOBS_MAX
    ),
    "accepts": Word("Message types the agent takes; null means all.", ["task"], asked=_LABELS),
    "allow_from": Word("Agents it takes messages from, ids or names; null means all.", None, asked=_LABELS),
    "ordered": Word("One push in flight at a time; a failure holds the rest.", False),
    "retry_schedule": _choice(
        "How fast failed pushes are repeated: `agent` seconds to minutes, `webhook` seconds to a day.",
        *(schedule.value for schedule in RetrySchedule),
    ),
    "signing_secret": Word(
        "What pushes are signed with (Standard Webhooks): `whsec_` and the base64 of 24 to 64 bytes. "
        "Made by the broker where it is left out; shown this once.",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ),
    "api_key": Word("The agent's own key; shown this once.", "abk_4fzq0kq2_Zm9vYmFyYmF6..._9c1f"),
    "status_message": _words(
        "What the agent says it is doing.", "scraping dealers in Ohio", limits.STATUS_MESSAGE_CHARS_MAX
    ),
    "accepts_work_orders": Word("Whether it takes work orders.", True),
    "contact_policy": _choice(
        "Who may write to it: everybody; accepted contacts, and strangers may ask; accepted contacts only.",
        *(policy.value for policy in ContactPolicy),
    ),
    "is_online": Word("Whether it was heard from within the last 60 s.", True),
    "heartbeat_at": _moment("Its last sign of life; null if there was none."),
    "agent_id": _agent("The agent."),
    # --- messages -----------------------------------------------------------------------------------------
    "message_id": _id("The message."),
    "key_id": Word(
        "The public part of a key: what stands between `abk_` and its secret.", "0011223344556677"
    ),
    "MessageView.id": _id("The message."),
    "SendRequest.id": _id("The sender's own id for it: sent again under the same id it is sent once."),
    "from_agent_id": _agent("The sender. May be left out with an agent's own key; another agent's is 403."),
    "to_agent_id": _agent("The recipient."),
    "SendRequest.to_agent_id": _agent("The recipient. Without one, `requirements` say who is capable."),
    "conversation_id": Word(
        "Groups messages; free text.",
        "cars-2026-01",
        asked={"maxLength": limits.CONVERSATION_ID_CHARS_MAX},
    ),
    "message_type": _words(
        "Free text (`task`, `response`, `status`, `error`, `question` are usual).",
        "task",
        limits.MESSAGE_TYPE_CHARS_MAX,
    ),
    "priority": Word(
        "1 (highest) to 10.", 5, **_both(minimum=limits.PRIORITY_MIN, maximum=limits.PRIORITY_MAX)
    ),
    "content": _object("Any JSON object.", {"task_type": "scrape", "parameters": {"make": "honda"}}),
    "metadata": _object(
        "Any JSON object. `retry_policy` (`exponential_backoff`, `fixed`, `none`), `max_retries` and "
        "`timeout` (seconds per attempt) govern delivery within the deployment's bounds.",
        {"max_retries": 3, "timeout": 30},
    ),
    "requirements": Word(
        "Capabilities the recipient must have, all of them.",
        ["scrape", "honda"],
        asked={"maxItems": limits.REQUIREMENTS_MAX},
    ),
    "expires_at": _moment("When it is of no use any more.", A_LATER_MOMENT),
    "deliver_at": _moment("Not before this moment.", None),
    "delivered_at": _moment("When its recipient took it.", None),
    "processed_at": _moment("When its recipient said it was done.", None),
    "next_attempt_at": _moment("When the next push is due.", None),
    "reply_to": Word("The message this one answers.", None, **_both(format="uuid")),
    "root_id": _id("The message at the root of a chain of answers."),
    "hop": Word("How many answers it is away from its root.", 0, shown={"minimum": 0}),
    "retry_count": Word("Pushes beyond the first.", 0, shown={"minimum": 0}),
    "result": Word("What the recipient made of it; any JSON.", {"found": 42}),
    "status_reason": Word("Why it ended as it did.", None),
    "StatusChange.status": _choice("What became of it.", *(status.value for status in Status)),
    "reason": Word("Why.", "the page has moved"),
    "durability": Word(
        "`buffered` where the deployment does not sync every publish; else absent.", "buffered"
    ),
    "wait": Word("Which rung to wait for before replying.", "accepted"),
    "timeout_ms": Word(
        "How long to wait for that; running out of time is no error.",
        1_000,
        asked={"minimum": 0, "maximum": limits.WAIT_MS_MAX},
    ),
    "results": Word("What became of each message, in the order of the request."),
    "error": Word("What went wrong."),
    # --- attempts, routes ---------------------------------------------------------------------------------
    "attempt": Word("Counts from 1 within a round.", 1, shown={"minimum": 1}),
    "AttemptView.status": _choice("How it ended.", "success", "failed", "timeout"),
    "AttemptView.error": Word("What went wrong, where no answer says it.", None),
    "response_code": Word("The endpoint's HTTP status.", 200),
    "response_body": Word("The beginning of the endpoint's answer.", '{"ok": true}'),
    "duration_ms": Word("How long it took.", 12, shown={"minimum": 0}),
    "attempted_at": _moment("When it began."),
    "round": Word("Counts replays of the message from 0.", 0, shown={"minimum": 0}),
    "route": Word(
        "The decision: candidates, what dropped each, scores; null when the sender named the recipient.",
        None,
        shown={"type": ["object", "null"]},
    ),
    # --- errors, health -----------------------------------------------------------------------------------
    "code": Word("What went wrong, for programs: stable.", "invalid"),
    "message": Word("What went wrong, for people: one sentence.", "priority: must be 1 (highest) to 10"),
    "field": Word("The field that is wrong, where it is one.", "priority"),
    "request_id": Word("The id of the request, as in `X-Request-Id` and in the log.", AN_ID),
    "details": Word("Every fault, where fields are wrong."),
    "HealthReply.status": _choice("Always `ok`.", "ok"),
    "ReadyReply.status": _choice("Whether requests can be served.", "ready", "not ready"),
    "checks": Word("`ok`, or a sentence on what is missing, per check.", {"redis": "ok", "postgres": "ok"}),
}

BODIES: Final[dict[str, Facets]] = {
    "RegisterRequest": {
        "name": "scraper_honda",
        "type": "scraper",
        "capabilities": ["scrape", "honda"],
        "max_concurrent_jobs": 10,
    },
    "SendRequest": {
        "to_agent_id": "scraper_honda",
        "message_type": "task",
        "priority": 3,
        "content": {"task_type": "scrape", "parameters": {"make": "honda"}},
        "metadata": {"max_retries": 3, "timeout": 30},
    },
    "StatusChange": {"status": "processed", "result": {"found": 42}},
}
"""Examples of whole bodies, where the examples of all their fields together would make no sense."""

TAGS: Final = {
    "Agents": "Who takes part: register, find, change and remove agents.",
    "Messages": "Send messages, by name or by capability, and see what became of them.",
    "Operation": "What operators and their tools ask for. Needs no key.",
}
"""What belongs under a heading; in the order of the page."""

FAULTS: Final = {
    "malformed": "the body is not JSON",
    "invalid": "priority: must be 1 (highest) to 10",
    "unauthenticated": "a key is needed: Authorization: Bearer <key>",
    "forbidden": "this key may not do agents:write",
    "agent_mismatch": "this key belongs to another agent",
    "not_found": "no such agent",
    "name_taken": "an agent is called scraper_honda already",
    "conflict": "another message has this id",
    "illegal_transition": "a processed message cannot become cancelled",
    "request_timeout": "the body did not arrive in time",
    "too_large": "a body of 300000 bytes; at most 262144",
    "unsupported_media_type": "compressed bodies are not taken",
    "unknown_recipient": "no agent is known as 'scraper_hnda'",
    "address_denied": "the endpoint's address may not be dialled",
    "streams_unavailable": "Redis does not answer",
    "streams_full": "Redis has no room for more",
    "store_unavailable": "Postgres does not answer",
    "unavailable": "a part of the broker is away",
    "internal": "something went wrong here; it has been logged",
}
"""An example of what each error says, by its code."""
