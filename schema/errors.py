"""The errors of the product: three branches, each class with a stable `code`.

`Rejected`: the caller is wrong, never retried. `Conflict`: a race was lost, read again. `Unavailable`: the
world is down, back off. Expected results of a delivery attempt are values, not exceptions.
"""

from typing import ClassVar, Self


class Fault:
    """One thing wrong with one field of a request."""

    __slots__ = ("field", "message")

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message


class BrokerError(Exception):
    """Base of every error the product raises on purpose.

    `message` is one sentence for people; `field` names the culprit where there is one; `faults` lists
    all of them when several fields are wrong.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, field: str | None = None, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.faults = faults

    def at(self, field: str) -> Self:
        """Return the same error, naming the field."""
        self.field = field
        return self


class Rejected(BrokerError):
    """The caller is wrong; the same request will never succeed."""

    code = "invalid"
    status = 422


class Malformed(Rejected):
    code = "malformed"
    status = 400


class Unauthenticated(Rejected):
    code = "unauthenticated"
    status = 401


class Forbidden(Rejected):
    code = "forbidden"
    status = 403


class AgentMismatch(Forbidden):
    code = "agent_mismatch"


class NotAContact(Forbidden):
    """The recipient takes messages of its contacts only, or none at all but theirs."""

    code = "not_a_contact"


class NotFound(Rejected):
    code = "not_found"
    status = 404


class TooLarge(Rejected):
    code = "too_large"
    status = 413


class UnsupportedMedia(Rejected):
    code = "unsupported_media_type"
    status = 415


class IdempotencyMismatch(Rejected):
    """The key came with another request before."""

    code = "idempotency_mismatch"


class UnknownRecipient(Rejected):
    code = "unknown_recipient"


class RecipientDisabled(Rejected):
    """The recipient takes nothing: an operator, the broker or its own departure has switched it off."""

    code = "recipient_disabled"


class AddressDenied(Rejected):
    code = "address_denied"


class RateLimited(Rejected):
    """More than somebody takes in a time; the same request succeeds after `retry_after_s`."""

    code = "rate_limited"
    status = 429

    def __init__(self, message: str, *, retry_after_s: int, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.retry_after_s = retry_after_s


class InboxFull(RateLimited):
    """The recipient's inbox holds as much as it may."""

    code = "inbox_full"


class Killed(Forbidden):
    """An operator has switched off the agent, the two agents, or all that goes back to a message."""

    code = "killed"


class Conflict(BrokerError):
    """A race was lost or the state does not allow it; read again."""

    code = "conflict"
    status = 409


class NameTaken(Conflict):
    code = "name_taken"


class TooManyKeys(Conflict):
    """The agent has as many keys that work as it may."""

    code = "too_many_keys"


class IllegalTransition(Conflict):
    code = "illegal_transition"


class LeaseLost(Conflict):
    """Somebody else has the work order now, or nobody: what was asked changed nothing."""

    code = "lease_lost"


class NotAccepting(Conflict):
    """The agent takes no work orders at present."""

    code = "not_accepting"


class TooManyWorkOrders(Conflict):
    """The agent has ordered as much work as it may that is not finished."""

    code = "too_many_work_orders"


class AtCapacity(Conflict):
    """The agent works on as many orders as it said it can."""

    code = "at_capacity"


class Unsafe(Conflict):
    """The stores, as they are set up, cannot keep what the broker promises."""

    code = "unsafe_deployment"


class LoopDetected(Conflict):
    """The two agents were found keeping each other busy; nothing goes between them until that is reset."""

    code = "loop_detected"


class TooManySwitches(Conflict):
    """As much is switched off as may be."""

    code = "too_many_switches"


class HasEndpoint(Conflict):
    """Its messages are pushed to the agent: it cannot be read from as well."""

    code = "has_endpoint"


class Fenced(Conflict):
    """This process no longer owns what it tried to change."""

    code = "fenced"


class Unavailable(BrokerError):
    """A part of the world is down; back off and try again."""

    code = "unavailable"
    status = 503

    retry_after_s: ClassVar[int] = 2


class StreamsUnavailable(Unavailable):
    code = "streams_unavailable"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class StreamsFull(Unavailable):
    code = "streams_full"


class Overloaded(Unavailable):
    """Redis has used so much of its memory that nothing new is taken; what is there already goes on."""

    code = "overloaded"


class TooManyConnections(Unavailable):
    """This gateway holds as many connections as it may; another one, or a later moment, has room."""

    code = "too_many_connections"


class TooManySessions(Unavailable):
    """This gateway holds as many live sessions as it may; another one, or a later moment, has room."""

    code = "too_many_sessions"


class DataFault(BrokerError):
    """The store refused a row for what is in it (bad text, no partition): the row is wrong, not the store."""

    code = "data_fault"
