"""The note a sender gets: to whom, about what, and never about another note."""

from datetime import UTC, datetime

import msgspec
import pytest
from msgspec import Raw

from broker.core.bounce import bounce_of, is_automatic
from schema.codec import decode_envelope, encode
from schema.ids import new_id
from schema.limits import HOP_MAX
from schema.message import Envelope, Reason

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SENDER, RECIPIENT, ID, ROOT, NOTE = (new_id() for _ in range(5))


def sent(**more: object) -> Envelope:
    whole = Envelope(
        id=ID,
        from_agent_id=SENDER,
        to_agent_id=RECIPIENT,
        conversation_id="c",
        message_type="task",
        priority=2,
        root_id=ROOT,
        hop=3,
    )
    return msgspec.structs.replace(whole, **more)


def test_a_note_goes_to_the_sender_in_the_same_conversation() -> None:
    note = bounce_of(sent(), Reason.RECIPIENT_DELETED, bounce_id=NOTE, now=NOW, name="was called")
    assert note is not None
    # What the router reads is what was meant.
    read = decode_envelope(encode(note))
    assert (read.id, read.from_agent_id, read.to_agent_id, read.message_type) == (NOTE, None, SENDER, "error")
    assert (read.conversation_id, read.priority, read.reply_to, read.root_id) == ("c", 2, ID, ROOT)
    assert (read.hop, read.created_at) == (4, NOW)
    assert msgspec.json.decode(read.content) == {
        "message_id": ID,
        "reason": "recipient_deleted",
        "to_agent_id": RECIPIENT,
        "to_agent_name": "was called",
        "message_type": "task",
    }
    assert is_automatic(read.metadata)


@pytest.mark.parametrize(
    "message", [sent(from_agent_id=None), sent(metadata=Raw(b'{"automatic": true, "x": 1}'))]
)
def test_without_a_sender_and_about_a_note_there_is_none(message: Envelope) -> None:
    assert bounce_of(message, Reason.RECIPIENT_DELETED, bounce_id=NOTE, now=NOW) is None


def test_a_note_about_a_note_is_never_made() -> None:
    note = bounce_of(sent(), Reason.RECIPIENT_DELETED, bounce_id=NOTE, now=NOW)
    assert note is not None
    note.from_agent_id = SENDER
    assert bounce_of(note, Reason.RECIPIENT_DELETED, bounce_id=new_id(), now=NOW) is None


def test_the_last_of_a_long_chain_hears_of_its_end() -> None:
    note = bounce_of(sent(hop=HOP_MAX), Reason.RECIPIENT_DELETED, bounce_id=NOTE, now=NOW)
    assert note is not None
    assert note.hop == HOP_MAX


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
