"""What a dead letter is sent again as."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import UNSET, Raw

from broker.core.replay import next_round
from schema.codec import decode_envelope, encode
from schema.dead_letter import DeadLetter, Skip
from schema.ids import new_id
from schema.limits import COUNTER_MAX
from schema.message import Envelope

AGE_MS = 5 * 24 * 3600 * 1000
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
TO, SENDER = "0193a1b2-c3d4-7000-8000-00000000000a", new_id()


def letter(**fields: Any) -> DeadLetter:
    message_id = new_id()
    given = {
        "id": message_id,
        "from_agent_id": SENDER,
        "to_agent_id": TO,
        "conversation_id": "c",
        "message_type": "task",
        "priority": 2,
        "content": Raw(b'{"n": 1}'),
        "metadata": Raw(b'{"max_retries": 2}'),
        "status": "failed",
        "retry_count": 3,
        "expires_at": None,
        "created_at": NOW - timedelta(hours=1, microseconds=7),
        "delivered_at": None,
        "processed_at": None,
        "result": None,
        "status_reason": "exhausted",
        "reply_to": new_id(),
        "root_id": new_id(),
        "hop": 2,
    }
    return DeadLetter(**(given | fields))


def test_it_is_the_same_message_in_its_next_round() -> None:
    dead = letter(round=4)
    again = next_round(dead, requirements=None, chosen=False, now=NOW, age_ms_max=AGE_MS)
    assert isinstance(again, Envelope)
    for name in ("id", "from_agent_id", "to_agent_id", "conversation_id", "message_type", "priority"):
        assert getattr(again, name) == getattr(dead, name), name
    for name in ("content", "metadata", "created_at", "reply_to", "root_id", "hop"):
        assert getattr(again, name) == getattr(dead, name), name
    assert (again.status, again.round, again.deliver_at) == ("pending", 5, UNSET)
    # Routers take it: nothing in it is out of bounds.
    assert decode_envelope(encode(again)).round == 5


@pytest.mark.parametrize(
    ("expires_in", "kept"), [(None, False), (-3600, False), (0, False), (60, True)], ids=str
)
def test_an_expiry_that_has_passed_is_taken_away(expires_in: int | None, kept: bool) -> None:
    expires_at = None if expires_in is None else NOW + timedelta(seconds=expires_in)
    again = next_round(
        letter(expires_at=expires_at), requirements=None, chosen=False, now=NOW, age_ms_max=AGE_MS
    )
    assert isinstance(again, Envelope)
    assert again.expires_at == (expires_at if kept else None)


@pytest.mark.parametrize(
    ("to", "needed", "content", "chosen", "then_to", "then_needed"),
    [
        (TO, None, b"{}", False, TO, UNSET),
        (TO, ["a"], b"{}", False, TO, ["a"]),
        (TO, ["a"], b"{}", True, None, ["a"]),
        (TO, None, b'{"requirements": ["b"]}', True, None, ["b"]),
        (TO, None, b'{"requirements": ["b"]}', False, TO, UNSET),
        (TO, None, b"{}", True, TO, UNSET),
        (None, ["a", "b"], b"{}", False, None, ["a", "b"]),
        (None, None, b'{"requirements": ["b"]}', False, None, ["b"]),
    ],
)
def test_who_was_chosen_is_chosen_anew_and_who_was_named_stays(
    to: str | None, needed: list[str] | None, content: bytes, chosen: bool, then_to: Any, then_needed: Any
) -> None:
    dead = letter(to_agent_id=to, content=Raw(content))
    again = next_round(dead, requirements=needed, chosen=chosen, now=NOW, age_ms_max=AGE_MS)
    assert isinstance(again, Envelope)
    assert (again.to_agent_id, again.requirements) == (then_to, then_needed)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"to_agent_id": None}, Skip.NO_DESTINATION),
        ({"to_agent_id": None, "content": Raw(b'{"requirements": 7}')}, Skip.NO_DESTINATION),
        ({"to_agent_id": None, "content": Raw(b'{"requirements": []}')}, Skip.NO_DESTINATION),
        ({"round": COUNTER_MAX}, Skip.TOO_MANY_ROUNDS),
        ({"created_at": NOW - timedelta(milliseconds=AGE_MS + 1)}, Skip.TOO_OLD),
    ],
    ids=range(5),
)
def test_what_cannot_be_sent_again_is_not_and_says_why(fields: dict[str, Any], why: Skip) -> None:
    again = next_round(letter(**fields), requirements=None, chosen=False, now=NOW, age_ms_max=AGE_MS)
    assert again is why
