"""Words: what means the same in every subject, errors and health."""

from typing import Final

from broker.gateway.openapi.wording.word import (
    AN_ID,
    Word,
    Words,
    agent,
    choice,
    count,
    id_,
    moment,
    text,
    whole,
)
from schema import limits

GENERAL: Final[Words] = {
    "id": id_("A UUID."),
    "name": text("Its name.", "scraper_honda", limits.AGENT_NAME_CHARS_MAX, chars_min=1),
    "agent_id": agent("The agent."),
    "limit": Word(
        f"How many at most; more than {limits.PAGE_ROWS_MAX} means {limits.PAGE_ROWS_MAX}.",
        20,
        asked={"minimum": 1},
    ),
    "cursor": Word("Where the page begins: the `X-Next-Cursor` (or `next_cursor`) of the one before."),
    "next_cursor": Word("Give it as `cursor` to get the next page; null on the last one."),
    "created_at": moment("When it was made."),
    "updated_at": moment("When it last changed."),
    "expires_at": moment("When it ends; null: never.", None),
    "success": Word("Always true: what goes wrong is an error.", True),
    "total": count("How many there are in all."),
    "reason": Word("Why.", "the page has moved"),
    "since": moment("Only from this moment on."),
    "status": Word("Where it is in its life.", "pending"),
    "status_reason": Word("Why it ended as it did.", None),
    "wait_ms": whole(
        "Long-poll: where there is nothing, wait this long for something.", 0, 0, limits.INBOX_WAIT_MS_MAX
    ),
    # --- errors -------------------------------------------------------------------------------------------
    "code": Word("What went wrong, for programs: stable.", "invalid"),
    "ErrorBody.message": Word("What went wrong, for people: one sentence.", "no such agent"),
    "FaultView.message": Word("What is wrong with it.", "must be 1 (highest) to 10"),
    "field": Word("The field that is wrong, where it is one.", "priority"),
    "request_id": Word("The id of the request, as in `X-Request-Id` and in the log.", AN_ID),
    "retry_after_s": Word("Seconds after which to try again, where that makes sense; as `Retry-After`.", 2),
    "details": Word("Every fault, where fields are wrong."),
    "error": Word("What went wrong."),
    # --- health -------------------------------------------------------------------------------------------
    "HealthReply.status": choice("Always `ok`.", "ok"),
    "ReadyReply.status": choice("Whether requests can be served.", "ready", "not ready"),
    "checks": Word("`ok`, or a sentence on what is missing, per check.", {"redis": "ok", "postgres": "ok"}),
}
