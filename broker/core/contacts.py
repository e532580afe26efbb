"""Who may write to whom: contact policies and contacts as pure rules.

A contact counts in both directions: who was asked and agreed may write back. A rate binds only the side that
asked, because the other one said how much it takes.

    policy          contact   reply   stranger   stranger asks
    open            yes       yes     yes        yes
    contacts_only   yes       yes     no         yes, unless it was declined
    closed          yes       yes     no         no
"""

from msgspec import Struct

from schema.agent import ContactPolicy
from schema.contact import Contact, ContactStatus


class Standing(Struct, frozen=True, gc=False):
    """How a sender stands with a recipient: what it was answered, and what it answered the recipient itself.

    None: there was no request.
    """

    answered: Contact | None = None
    answering: Contact | None = None

    def is_contact(self, now_ms: int) -> bool:
        """Tell whether either has accepted the other."""
        return is_active(self.answered, now_ms) or is_active(self.answering, now_ms)

    def rate_per_minute(self, now_ms: int) -> int | None:
        """Return how much the recipient takes of the sender; None without a bound."""
        if self.answered is None or not is_active(self.answered, now_ms):
            return None
        return self.answered.rate_per_minute

    @property
    def was_declined(self) -> bool:
        """Whether the recipient's last word to the sender was no."""
        return self.answered is not None and self.answered.status is ContactStatus.DECLINED


STRANGERS = Standing()


def is_active(contact: Contact | None, now_ms: int) -> bool:
    """Tell whether a contact is accepted and not expired."""
    if contact is None or contact.status is not ContactStatus.ACCEPTED:
        return False
    return contact.expires_ms is None or now_ms < contact.expires_ms


def may_write(policy: ContactPolicy, standing: Standing, now_ms: int, *, is_reply: bool) -> bool:
    """Tell whether the recipient's policy lets a message in.

    `is_reply`: it answers a message that the recipient itself sent to this sender.
    """
    return policy is ContactPolicy.OPEN or is_reply or standing.is_contact(now_ms)


def may_ask(policy: ContactPolicy, standing: Standing, now_ms: int) -> bool:
    """Tell whether the recipient's policy lets a contact request in."""
    if policy is ContactPolicy.OPEN or standing.is_contact(now_ms):
        return True
    return policy is ContactPolicy.CONTACTS_ONLY and not standing.was_declined
