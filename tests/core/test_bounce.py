"""The note a sender gets: to whom, what it says, and how many of them."""

from datetime import UTC, datetime

import msgspec
import pytest
from msgspec import Raw

from broker.core.bounce import BadEnd, Tally, admit, bounce_of, is_automatic, summary_of
from schema.codec import decode_envelope, encode
from schema.ids import new_id
from schema.limits import HOP_MAX

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SENDER, RECIPIENT, ID, ROOT, NOTE = (new_id() for _ in range(5))


def ended(**more: object) -> BadEnd:
    whole = BadEnd(
        id=ID,
        from_agent_id=SENDER,
        to_agent_id=RECIPIENT,
        to_agent_name="was called",
        conversation_id="c",
        message_type="task",
        priority=2,
        root_id=ROOT,
        hop=3,
        round=1,
        reason="recipient_deleted",
    )
    return msgspec.structs.replace(whole, **more)


def test_a_note_goes_to_the_sender_in_the_same_conversation() -> None:
    note = bounce_of(ended(), bounce_id=NOTE, now=NOW)
    # What the router reads is what was meant.
    read = decode_envelope(encode(note))
    assert (read.id, read.from_agent_id, read.to_agent_id, read.message_type) == (NOTE, None, SENDER, "error")
    assert (read.conversation_id, read.priority, read.reply_to, read.root_id) == ("c", 2, ID, ROOT)
    assert (read.hop, read.created_at) == (4, NOW)
    assert msgspec.json.decode(read.content) == {
        "message_id": ID,
        "status": "failed",
        "reason": "recipient_deleted",
        "to_agent_id": RECIPIENT,
        "to_agent_name": "was called",
        "message_type": "task",
        "round": 1,
    }
    assert is_automatic(read.metadata)


def test_the_last_of_a_long_chain_hears_of_its_end() -> None:
    assert bounce_of(ended(hop=HOP_MAX), bounce_id=NOTE, now=NOW).hop == HOP_MAX


@pytest.mark.parametrize(
    ("told", "count", "one_by_one", "held"),
    [(0, 3, 3, 0), (0, 12, 10, 2), (9, 3, 1, 2), (10, 2, 0, 2), (10, 0, 0, 0)],
)
def test_so_many_notes_in_a_window_and_the_rest_is_counted(
    told: int, count: int, one_by_one: int, held: int
) -> None:
    tally = Tally(told=told)
    ends = [ended(id=new_id()) for _ in range(count)]
    assert admit(tally, ends, told_max=10) == ends[:one_by_one]
    assert (tally.told, tally.held) == (told + one_by_one, held)


def test_what_is_held_is_counted_by_reason_and_agents_words_as_one() -> None:
    tally = Tally(held=1, reasons={"expired": 1})
    reasons = ("exhausted", "exhausted", "expired", "no thanks", None)
    assert admit(tally, [ended(reason=reason) for reason in reasons], told_max=0) == []
    assert tally.reasons == {"expired": 2, "exhausted": 2, "other": 2}
    read = decode_envelope(encode(summary_of(SENDER, tally, since=NOW, note_id=NOTE, now=NOW)))
    assert (read.from_agent_id, read.to_agent_id, read.message_type) == (None, SENDER, "error")
    assert is_automatic(read.metadata)
    content = msgspec.json.decode(read.content)
    assert (content["count"], content["reasons"]) == (6, tally.reasons)


@pytest.mark.parametrize(
    ("metadata", "automatic"),
    [
        (b"{}", False),
        (b'{"automatic":false}', False),
        (b'{"automatic":"yes"}', False),
        (b'{"note":"automatic"}', False),
        (b'{"automatic":true}', True),
    ],
)
def test_only_a_true_mark_counts(metadata: bytes, automatic: bool) -> None:
    assert is_automatic(Raw(metadata)) is automatic
