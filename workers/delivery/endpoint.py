"""One agent's endpoint: where it is, how it is signed for, how much it may have in flight."""

from functools import lru_cache
from typing import Final

from msgspec import Struct

from broker.core.breaker import Breaker
from broker.core.pace import Pace
from broker.transport.client import Target
from broker.transport.endpoint import parse_endpoint
from broker.transport.signature import Signer
from schema.agent import SEALED, Agent, EndpointFault
from schema.errors import Rejected
from schema.limits import ENDPOINT_IN_FLIGHT_MAX
from schema.message import LANES, Lane, Reason
from workers.delivery.items import Item, Mailbox

USER_AGENT: Final = "agent-broker/0.1"
# Of this many picks one goes to the lowest lane that has something, so that a busy high lane starves none.
PICKS_PER_LOW: Final = 16


STAMP_MS: Final = 1_000
"""What a request is signed with are seconds."""
_TRACE: Final = b"\r\ntraceparent: 00-"
_ATTEMPT_1: Final = b"\r\nx-attempt: 1" + _TRACE
_SPELLED_BYTES: Final = 4_096
_SIZES: Final = tuple(b"%d" % size for size in range(_SPELLED_BYTES))
"""Sizes of bodies as they stand in a head: spelling a number costs ten times as much as finding it."""

_parse: Final = lru_cache(maxsize=4_096)(parse_endpoint)
"""Books are opened anew where messages come now and then; a URL costs 40 us to read."""


class Allowance(Struct, frozen=True):
    """What an endpoint gets that has no numbers of its own. `pushes_per_second` 0: no limit."""

    concurrency: int = ENDPOINT_IN_FLIGHT_MAX
    pushes_per_second: int = 0


ALLOWANCE: Final = Allowance()


class Stamp(Struct, frozen=True):
    """The second in which a request is signed, as it stands in what is signed and in its head."""

    from_ms: int
    dotted: bytes
    line: bytes


def stamp_of(now_ms: int) -> Stamp:
    """Return the stamp of the second that a moment lies in: the same for all that is posted in it."""
    now_s = now_ms // STAMP_MS
    line = b"\r\nwebhook-timestamp: %d\r\nwebhook-signature: v1," % now_s
    return Stamp(now_s * STAMP_MS, b".%d." % now_s, line)


class Endpoint:
    """The state of one endpoint in the memory of its delivery owner."""

    __slots__ = (
        "_former",
        "_former_until_ms",
        "_gives",
        "_head",
        "_picks",
        "_signer",
        "agent",
        "breaker",
        "fault",
        "heard_ms",
        "in_flight",
        "is_failing",
        "limit",
        "mailboxes",
        "pace",
        "queued",
        "ready",
        "slow_until_ms",
        "target",
        "waiting",
        "waits_until_ms",
    )

    def __init__(self, agent: Agent, breaker: Breaker, gives: Allowance = ALLOWANCE) -> None:
        self.breaker = breaker
        self.pace: Pace | None = None
        self.is_failing = False
        """Whether its breaker has opened since it last answered."""
        self._gives = gives
        self.mailboxes: dict[Lane, Mailbox] = {}
        self.in_flight = 0
        self.queued = 0
        self.waiting = 0
        """Retries that wait in Redis."""
        self.limit = 0
        """Requests it may have in flight. Where order is kept, a retry that waits holds the rest."""
        self.ready = False
        self.slow_until_ms = 0
        """Until then what is for it goes through its mailbox."""
        self.waits_until_ms = 0
        """Its place among the troubled (0: none)."""
        self.heard_ms = 0
        """When its agent's last sign of life was passed on."""
        self._picks = 0
        self.update(agent)

    def update(self, agent: Agent) -> None:
        """Take over what changed in the agent's record; without usable endpoint and secret: no target."""
        self.agent = agent
        self._set_limit()
        self.target: Target | None = None
        self.fault: EndpointFault | None = agent.endpoint_fault
        rate = agent.max_pushes_per_second or self._gives.pushes_per_second
        if rate != (0 if self.pace is None else self.pace.rate):
            self.pace = Pace(rate) if rate else None
        if agent.endpoint is None or self.fault is not None:
            return
        try:
            self._signer = Signer(agent.signing_secret)
            self._former = _former(agent.previous_secret)
            self._former_until_ms = agent.previous_secret_until_ms // STAMP_MS * STAMP_MS
            self.target = _parse(agent.endpoint)
        except Rejected:
            return
        host = self.target.origin.authority
        self._head = (
            f"POST {self.target.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\n"
            "Content-Type: application/json\r\nAccept-Encoding: identity\r\nContent-Length: "
        ).encode()

    def note_waiting(self, change: int) -> None:
        """Count retries that wait in Redis."""
        self.waiting += change
        self._set_limit()

    def _set_limit(self) -> None:
        if self.agent.ordered:
            self.limit = 0 if self.waiting else 1
        else:
            self.limit = self.agent.concurrency or self._gives.concurrency

    @property
    def refusal(self) -> Reason:
        """Why nothing can be posted, where it has no target."""
        return Reason.ENDPOINT_INVALID if self.fault is None else self.fault.refusal

    @property
    def is_disabled_here_only(self) -> bool:
        """Whether a 410 has disabled it and its agent's record does not say so yet."""
        return self.fault is not None and self.agent.endpoint_fault is None

    def disable(self, fault: EndpointFault) -> None:
        """Post nothing more, until the agent's record says otherwise."""
        self.fault, self.target = fault, None

    @property
    def outstanding(self) -> int:
        """Messages it has to do, as far as memory knows: queued or being posted. Retries that wait for later
        are not work it has now."""
        return self.queued + self.in_flight

    @property
    def is_idle(self) -> bool:
        return self.in_flight == 0 and not self.mailboxes

    def next_item(self) -> Item | None:
        """Take the next item to push: high lane first, with a low one now and then."""
        if not self.queued:
            return None
        self._picks += 1
        order = LANES if self._picks % PICKS_PER_LOW else LANES[::-1]
        for lane in order:
            mailbox = self.mailboxes.get(lane)
            if mailbox is not None and mailbox.queue:
                self.queued -= 1
                return mailbox.queue.popleft()
        raise AssertionError("queued counts what the mailboxes hold")

    def head(self, item: Item, stamp: Stamp) -> bytes:
        """Return the head of the request for an item: signatures, attempt number, trace."""
        message_id, body = item.id.encode(), item.body
        signed = b"".join((message_id, stamp.dotted, body))
        signature = self._signer.seal(signed)
        if self._former is not None and stamp.from_ms < self._former_until_ms:
            signature += b" v1," + self._former.seal(signed)
        plain = message_id.replace(b"-", b"")
        trace = plain if item.root_id is item.id else item.root_id.encode().replace(b"-", b"")
        size = len(body)
        return b"".join(
            (
                self._head,
                _SIZES[size] if size < _SPELLED_BYTES else b"%d" % size,
                b"\r\nwebhook-id: ",
                message_id,
                stamp.line,
                signature,
                _ATTEMPT_1 if not item.attempts else b"\r\nx-attempt: %d%b" % (item.attempts + 1, _TRACE),
                trace,
                b"-",
                plain[16:],
                b"-01\r\n\r\n",
            )
        )


def _former(secret: str) -> Signer | None:
    """Return what signs with the former secret as well; None where there is none, or none that can be read:
    the new one suffices."""
    return Signer(secret) if secret and not secret.startswith(SEALED) else None
