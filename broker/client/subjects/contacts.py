"""Operations: contacts."""

from datetime import datetime

from broker.client.request import Listing, Request, given, path_of
from broker.client.subject import ShellT, Subject, listing, operation
from schema.contact import ContactEnded, ContactRequestReply, ContactsPage, ContactView
from schema.limits import PRIORITY_DEFAULT

PATH = "/api/v1/messaging/contacts"


class Contacts(Subject[ShellT]):
    """Who may write to whom. `agent_id`, `from_agent_id`: as whom, where the key does not say it."""

    @operation("requestContact")
    def request(
        self,
        to: str,
        subject: str,
        body: str = "",
        *,
        priority: int = PRIORITY_DEFAULT,
        from_agent_id: str | None = None,
    ) -> Request[ContactRequestReply]:
        """Ask an agent to become a contact. Raises: UnknownRecipient, NotAContact, RateLimited."""
        # Not repeatable: it would ask a second time.
        return Request(
            method="POST",
            path="/api/v1/messaging/send",
            reply=ContactRequestReply,
            query={"from_agent_id": from_agent_id},
            body={"to_agent_id": to, "subject": subject, "body": body, "priority": priority},
            repeatable=False,
        )

    @listing("listContacts")
    def list(self, *, agent_id: str | None = None, status: str | None = None) -> Listing[ContactView]:
        """Yield one's contacts and requests, in the order they began."""
        query = {"agent_id": agent_id, "status": status}
        return Listing(
            first=Request(method="GET", path=PATH, reply=ContactsPage, query=query), rows="contacts"
        )

    __call__ = list

    @operation("respondToContact")
    def accept(
        self,
        peer: str,
        *,
        rate_per_minute: int | None = None,
        expires_at: datetime | None = None,
        agent_id: str | None = None,
    ) -> Request[ContactView]:
        """Let a peer write: at most so often, and until a time, where those are given. Raises: NotFound."""
        body = given(action="accept", rate_per_minute=rate_per_minute, expires_at=expires_at)
        return _answer(peer, body, agent_id)

    @operation("respondToContact")
    def decline(
        self, peer: str, reason: str | None = None, *, agent_id: str | None = None
    ) -> Request[ContactView]:
        """Let a peer not write, or no longer. Raises: NotFound."""
        return _answer(peer, given(action="decline", reason=reason), agent_id)

    @operation("endContact")
    def end(self, peer: str, *, agent_id: str | None = None) -> Request[ContactEnded]:
        """End a contact, whichever side began it. Raises: NotFound."""
        path = f"{PATH}/{path_of(peer)}"
        return Request(method="DELETE", path=path, reply=ContactEnded, query={"agent_id": agent_id})


def _answer(peer: str, body: dict[str, object], agent_id: str | None) -> Request[ContactView]:
    path = f"{PATH}/{path_of(peer)}/respond"
    return Request(method="POST", path=path, reply=ContactView, query={"agent_id": agent_id}, body=body)
