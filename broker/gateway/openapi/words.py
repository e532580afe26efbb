"""What the document says in its own words: fields, headings, whole bodies, errors.

A field's word is found by `Type.field` first (the type's own, then its bases'), then by `field` alone, so
that a name means the same everywhere unless a type says otherwise. A description or a bound in the type
itself (`msgspec.Meta`) wins over any word.
"""

from collections.abc import Sequence
from typing import Final

from broker.gateway.openapi.wording.agents import AGENTS
from broker.gateway.openapi.wording.coordination import COORDINATION
from broker.gateway.openapi.wording.general import GENERAL
from broker.gateway.openapi.wording.messages import MESSAGES
from broker.gateway.openapi.wording.stops import STOPS
from broker.gateway.openapi.wording.word import Facets, Word, Words

WORDS: Final[Words] = GENERAL | AGENTS | MESSAGES | COORDINATION | STOPS


def word_for(owners: Sequence[str], name: str) -> Word | None:
    """Return the word for a field; `owners`: its type and that type's bases, nearest first."""
    for owner in owners:
        word = WORDS.get(f"{owner}.{name}")
        if word is not None:
            return word
    return WORDS.get(name)


TAGS: Final = {
    "Agents": "Who takes part: register, find, change and remove agents.",
    "Keys": "Keys of agents: list, add, rotate with overlap, revoke; the secret pushes are signed with.",
    "Messages": "Send messages, by name or by capability, and see what became of them.",
    "Inbox": "What waits for an agent that pulls: page through it, wait for it, stream it, say it was read.",
    "Presence": "Who is there, what they say they are doing, and a knock at their door.",
    "Contacts": "Who may write to whom: requests that are accepted or declined.",
    "Work orders": "Work with a price and a deadline: ordered, accepted under a lease, done or not.",
    "Statistics": "How much there is, how fast it goes, what fails.",
    "Dead letters": "Messages that ended badly, and how to send them again.",
    "Stops": "What the broker or an operator has stopped: loops, agents, pairs, chains of messages.",
    "Operation": "What operators and their tools ask for. Needs no key.",
}
"""What belongs under a heading; in the order of the page."""

BODIES: Final[dict[str, Facets]] = {
    "RegisterRequest": {
        "name": "scraper_honda",
        "type": "scraper",
        "capabilities": ["scrape", "honda"],
        "max_concurrent_jobs": 10,
    },
    "AgentPatch": {"status": "paused", "status_message": "back on Monday"},
    "SendRequest": {
        "to_agent_id": "scraper_honda",
        "message_type": "task",
        "priority": 3,
        "content": {"task_type": "scrape", "parameters": {"make": "honda"}},
        "metadata": {"max_retries": 3, "timeout": 30},
    },
    "StatusChange": {"status": "processed", "result": {"found": 42}},
    "PingRequest": {"to_agent_id": "scraper_honda", "message": "are you there?"},
    "ContactRequest": {
        "to_agent_id": "scraper_honda",
        "subject": "we should talk",
        "body": "about Ohio",
        "priority": 5,
    },
    "WorkOrderRequest": {
        "to_agent_id": "scraper_honda",
        "title": "All Hondas in Ohio",
        "description": "New and used.",
        "requirements": {"make": "honda", "cars": 200},
        "budget_usd": 15000,
        "deadline_at": "2027-01-15T18:00:00Z",
    },
    "RespondRequest": {"action": "accept", "estimated_completion": "2027-01-15T17:00:00Z"},
    "CompleteRequest": {"result": {"cars": 212}, "lease": "3f1c5a9e"},
    "KillSwitchRequest": {"agent_id": "scraper_honda", "reason": "writes the same again and again"},
    "ReplayRequest": {"agent_id": "scraper_honda", "reason": "exhausted"},
    "NewKeyRequest": {"scopes": ["messages:read", "messages:send"]},
}
"""Examples of whole bodies, where the examples of all their fields together would make no sense."""

FAULTS: Final = {
    "malformed": "the body is not JSON",
    "invalid": "priority: must be 1 (highest) to 10",
    "unauthenticated": "a key is needed: Authorization: Bearer <key>",
    "forbidden": "this key may not do agents:write",
    "agent_mismatch": "this key belongs to another agent",
    "not_a_contact": "this agent takes messages from its contacts only",
    "not_found": "no such agent",
    "name_taken": "an agent is called scraper_honda already",
    "conflict": "another message has this id",
    "illegal_transition": "a processed message cannot become cancelled",
    "lease_lost": "the work order is under another lease",
    "too_many_work_orders": "the agent has ordered as much as it may that is not finished",
    "at_capacity": "the agent works on as many orders as it takes",
    "not_accepting": "the agent takes no work orders",
    "recipient_disabled": "the recipient has been switched off",
    "has_endpoint": "this agent's messages are pushed to its endpoint; set that to null to pull them",
    "too_many_sessions": "this gateway holds as many sessions as it may",
    "too_many_keys": "the agent has 20 keys that work; revoke one first",
    "idempotency_mismatch": "this Idempotency-Key came with another body before",
    "request_timeout": "the body did not arrive in time",
    "head_too_large": "the head of a request; at most 65536 bytes",
    "too_large": "a body of 300000 bytes; at most 262144",
    "unsupported_media_type": "compressed bodies are not taken",
    "unknown_recipient": "no agent is known as 'scraper_hnda'",
    "address_denied": "the endpoint's address may not be dialled",
    "rate_limited": "too many messages to this agent within a minute",
    "inbox_full": "the recipient's inbox holds as much as it may",
    "loop_detected": "these two agents were found keeping each other busy; an operator resets that",
    "killed": "an operator has switched this agent off",
    "overloaded": "Redis has little memory left: nothing new is taken until some is free",
    "too_many_switches": "1000 kill switches are set; take one away first",
    "streams_unavailable": "Redis does not answer",
    "streams_full": "Redis has no room for more",
    "store_unavailable": "PostgreSQL does not answer",
    "unavailable": "a part of the broker is away",
    "internal": "something went wrong here; it has been logged",
}
"""An example of what each error says, by its code."""
