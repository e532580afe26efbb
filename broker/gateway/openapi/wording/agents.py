"""Words: agents, their keys, how they leave."""

from typing import Final

from broker.gateway.call import AGENT_SCOPES
from broker.gateway.openapi.wording.word import AN_AGENT, Word, Words, choice, count, id_, moment, text, whole
from schema import limits
from schema.agent import AgentStatus, ContactPolicy, RetrySchedule

_STATUS: Final = choice(
    "`active` agents get messages, `paused` ones are skipped by routing by capability, `disabled` ones were "
    "switched off.",
    *(status.value for status in AgentStatus),
)
_NAME: Final = text(
    "Unique; no slashes, braces or bars, nothing that looks like a UUID.",
    "scraper_honda",
    limits.AGENT_NAME_CHARS_MAX,
    chars_min=1,
)
_LABELS: Final = {"maxItems": limits.CAPABILITIES_MAX}
_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105  # an example

AGENTS: Final[Words] = {
    "AgentView.id": id_("The agent.", AN_AGENT),
    "RegisterRequest.name": _NAME,
    "AgentPatch.name": _NAME,
    "RegisterRequest.status": _STATUS,
    "AgentPatch.status": _STATUS,
    "AgentView.status": _STATUS,
    "ListAgents.status": _STATUS,
    "type": text(
        "What kind of agent: free text (`claude`, `discord_bot`, `scraper`, `api_server` are usual).",
        "scraper",
        limits.AGENT_TYPE_CHARS_MAX,
        chars_min=1,
    ),
    "endpoint": text(
        "Where messages are pushed to, http or https; null for an agent that pulls.",
        "https://agents.example.com/hook",
        limits.ENDPOINT_CHARS_MAX,
    ),
    "capabilities": Word("What the agent can do; routing compares them.", ["scrape", "honda"], asked=_LABELS),
    "capability": Word(
        "Only agents that can do this. Repeatable: all of them.",
        ["scrape"],
        asked={"maxItems": limits.REQUIREMENTS_MAX},
    ),
    "online": Word("Only agents that are online (true), or that are not (false).", False),
    "max_concurrent_jobs": whole(
        "Jobs the agent takes at a time; routing looks for one with room.", 10, 1, limits.CONCURRENT_JOBS_MAX
    ),
    "accepts": Word("Message types the agent takes; null means all.", None, asked=_LABELS),
    "allow_from": Word("Agents it takes messages from, ids or names; null means all.", None, asked=_LABELS),
    "ordered": Word("One push in flight at a time; a failure holds the rest.", False),
    "retry_schedule": choice(
        "How fast failed pushes are repeated: `agent` seconds to minutes, `webhook` seconds to a day.",
        *(schedule.value for schedule in RetrySchedule),
    ),
    "signing_secret": Word(
        "What pushes are signed with (Standard Webhooks): `whsec_` and the base64 of 24 to 64 bytes. "
        "Made by the broker where it is left out; shown this once.",
        _SECRET,
    ),
    "AgentPatch.signing_secret": Word("Not changed here: rotate it.", None),
    "previous_secret_valid_until": moment("Until when pushes are signed with the former secret as well."),
    "api_key": Word("The key itself; shown this once.", "abk_0011223344556677_Zm9vYmFyYmF6_2529d844"),
    "publishing_key": Word(
        "What signs messages on the streams as this agent; shown this once. Null where the key may not send, "
        "or the deployment has no SECRETS_KEY.",
        "abp_0011223344556677_Zm9vYmFyYmF6_2529d844",
    ),
    "status_message": text(
        "What the agent says it is doing.",
        "scraping dealers in Ohio",
        limits.STATUS_MESSAGE_CHARS_MAX,
        chars_min=1,
    ),
    "accepts_work_orders": Word("Whether it takes work orders.", True),
    "contact_policy": choice(
        "Who may write to it. `open`: everybody. `contacts_only`: accepted contacts; strangers may ask. "
        "`closed`: accepted contacts, and nobody may ask.",
        *(policy.value for policy in ContactPolicy),
    ),
    "is_online": Word("Whether it was heard from within the last 60 s.", True),
    "heartbeat_at": moment("Its last sign of life; null if there was none."),
    # --- leaving ------------------------------------------------------------------------------------------
    "mode": choice(
        "`bounce`: what waits for the agent goes back to its senders at once. `drain`: it may still take it.",
        "bounce",
        "drain",
    ),
    "timeout_s": whole("How long it may, when draining.", limits.DRAIN_S_DEFAULT, 0, limits.DRAIN_S_MAX),
    "waiting": count("Messages that wait for it; null where nobody could count them.", 0),
    "inbox_messages_max": whole(
        "Messages its inbox may hold; more is refused. Null: as the deployment says, 0: any number. Only an "
        "operator changes it.",
        None,
        0,
        limits.INBOX_MESSAGES_MAX,
    ),
    "inbox_bytes_max": whole("The same in bytes, as Redis holds them.", None, 0, limits.INBOX_BYTES_MAX),
    "max_pushes_per_second": whole(
        "Pushes to its endpoint a second at most; null: as the deployment says.",
        20,
        1,
        limits.ENDPOINT_PUSHES_PER_SECOND_MAX,
    ),
    "endpoint_status": Word(
        "`active`; `failing`: nothing but failures for so long that its owner was warned; `disabled`: "
        "nothing is pushed any more, and messages for it end. Null for an agent that pulls.",
        "active",
    ),
    "AgentPatch.endpoint_status": choice(
        "`active`: a disabled endpoint is pushed to again. Another `endpoint` does the same.", "active"
    ),
    "endpoint_disabled_at": moment("Since when its endpoint is disabled; null: it is not.", None),
    "endpoint_disabled_reason": Word(
        "`gone`: it answered 410. `failing`: it did nothing but fail for days. Null: it is not disabled.",
        None,
    ),
    "endpoint_failing_since": moment(
        "Since when every push has failed, where its owner has been warned of that; else null.", None
    ),
    "drains_until": moment("Until when a leaving agent may take what waits for it; null: it is not.", None),
    # --- keys ---------------------------------------------------------------------------------------------
    "key_id": Word(
        "The public part of a key: what stands between `abk_` and its secret.",
        "0011223344556677",
        asked={"maxLength": 64, "minLength": 1},
    ),
    "KeyView.id": Word("The public part of the key.", "0011223344556677"),
    "prefix": Word("How the key begins; enough to recognise it.", "abk_0011223344556677"),
    "scopes": Word(
        "What the key may do; without this field all that the caller may pass on.",
        sorted(scope.value for scope in AGENT_SCOPES),
        asked={
            "items": {"type": "string", "enum": sorted(scope.value for scope in AGENT_SCOPES)},
            "minItems": 1,
            "maxItems": len(AGENT_SCOPES),
        },
    ),
    "revoked_at": moment("When it was revoked; null: it was not.", None),
    "last_used_at": moment("When it was last used; null: never.", None),
    "is_live": Word("Whether it works now.", True),
    "is_current": Word("Whether this request was made with it.", False),
    "previous_expires_at": moment("When the key it replaces ends.", None),
    "overlap_s": whole(
        "How long the former keys work beside the new one.",
        limits.KEY_OVERLAP_S_DEFAULT,
        0,
        limits.KEY_OVERLAP_S_MAX,
    ),
}
