"""Agents that have just been given an endpoint: finds out which of them have something waiting.

Most have nothing, and opening the books of three mailboxes for each agent of a fleet of 100,000 that has just
been registered would take a gigabyte, and minutes to close again. So Redis is asked first which mailboxes
there are, and only agents that have one are looked into.

Why that loses nothing: the question goes over the shard's one connection before anything that is routed
later, so its answer comes before theirs as well. And as a router elsewhere that has not heard of the endpoint
may put something into a mailbox without saying so, the question is asked once more a little later.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from broker.streams.connection import Connection, Reply
from schema.errors import BrokerError

AGAIN_MS: Final = 3_000
"""Far longer than word of a change takes to reach every router."""
AT_ONCE_MAX: Final = 512
"""Agents asked about once more in one tick of the owner."""


class Newcomers:
    """Asks about the mailboxes of one shard's newcomers. `found` gets an agent's mailboxes, at least one of
    which is there, and whether that is the second answer."""

    def __init__(
        self,
        connection: Connection,
        *,
        found: Callable[[Sequence[str], bool], None],
        on_error: Callable[[BrokerError], None],
    ) -> None:
        self._connection = connection
        self._found = found
        self._on_error = on_error
        self._again: deque[tuple[int, Sequence[str]]] = deque()

    def look(self, mailboxes: Sequence[str], *, now_ms: int) -> None:
        """Ask about the mailboxes of one agent, now and once more."""
        self._ask(mailboxes, again=False)
        self._again.append((now_ms + AGAIN_MS, mailboxes))

    def look_again(self, now_ms: int) -> None:
        """Ask once more about those whose time has come."""
        for _ in range(AT_ONCE_MAX):
            if not self._again or self._again[0][0] > now_ms:
                return
            self._ask(self._again.popleft()[1], again=True)

    def _ask(self, mailboxes: Sequence[str], *, again: bool) -> None:
        self._connection.call(("EXISTS", *mailboxes), partial(self._answered, mailboxes, again))

    def _answered(self, mailboxes: Sequence[str], again: bool, reply: Reply) -> None:
        if isinstance(reply, BrokerError):
            self._on_error(reply)
        elif reply:
            self._found(mailboxes, again)
