"""Who may write to whom: the policies as a table."""

import pytest

from broker.core.contacts import STRANGERS, Standing, is_active, may_ask, may_write
from schema.agent import ContactPolicy
from schema.contact import Contact, ContactStatus

OPEN, CONTACTS_ONLY, CLOSED = ContactPolicy.OPEN, ContactPolicy.CONTACTS_ONLY, ContactPolicy.CLOSED
NOW_MS = 1_000_000


def contact(status: str, expires_ms: int | None = None, rate: int | None = None) -> Contact:
    return Contact(
        agent_id="asked",
        peer_id="asking",
        status=ContactStatus(status),
        message_id="m",
        created_ms=1,
        expires_ms=expires_ms,
        rate_per_minute=rate,
    )


STANDINGS = {
    "stranger": STRANGERS,
    "waiting": Standing(answered=contact("pending")),
    "declined": Standing(answered=contact("declined")),
    "accepted": Standing(answered=contact("accepted", NOW_MS + 1)),
    "has accepted": Standing(answering=contact("accepted")),
    "expired": Standing(answered=contact("accepted", NOW_MS)),
    "declined, has accepted": Standing(answered=contact("declined"), answering=contact("accepted")),
}


@pytest.mark.parametrize(
    ("standing", "contacts_only", "closed", "asks_contacts_only", "asks_closed"),
    [
        ("stranger", False, False, True, False),
        ("waiting", False, False, True, False),
        ("declined", False, False, False, False),
        ("accepted", True, True, True, True),
        ("has accepted", True, True, True, True),
        ("expired", False, False, True, False),
        ("declined, has accepted", True, True, True, True),
    ],
)
def test_policies_let_in_contacts_and_replies_and_some_requests(
    standing: str, contacts_only: bool, closed: bool, asks_contacts_only: bool, asks_closed: bool
) -> None:
    how = STANDINGS[standing]
    assert may_write(OPEN, how, NOW_MS, is_reply=False)
    assert may_write(CONTACTS_ONLY, how, NOW_MS, is_reply=False) is contacts_only
    assert may_write(CLOSED, how, NOW_MS, is_reply=False) is closed
    assert may_write(CONTACTS_ONLY, how, NOW_MS, is_reply=True)
    assert may_write(CLOSED, how, NOW_MS, is_reply=True)
    assert may_ask(OPEN, how, NOW_MS)
    assert may_ask(CONTACTS_ONLY, how, NOW_MS) is asks_contacts_only
    assert may_ask(CLOSED, how, NOW_MS) is asks_closed


@pytest.mark.parametrize(
    ("standing", "rate"),
    [
        (Standing(answered=contact("accepted", rate=3)), 3),
        (Standing(answered=contact("accepted")), None),
        (Standing(answered=contact("accepted", NOW_MS, rate=3)), None),
        (Standing(answered=contact("pending", rate=3)), None),
        (Standing(answering=contact("accepted", rate=3)), None),
        (STRANGERS, None),
    ],
)
def test_a_rate_binds_who_asked_while_the_contact_lasts(standing: Standing, rate: int | None) -> None:
    assert standing.rate_per_minute(NOW_MS) == rate


def test_nobody_is_no_contact() -> None:
    assert not is_active(None, NOW_MS)
