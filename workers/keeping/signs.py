"""Reading presence in pages: the agents of one shard last heard of within a span of time.

A page holds whole milliseconds, so the next one simply begins at the next millisecond: an offset would skip
agents whenever one that was read moves on while we read.

Pages come as Redis gave them, because who follows presence has seen most of what it reads before: telling
that takes no more than comparing bytes. `agents_of` makes sense of what is left.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Final

from broker.streams.connection import Connection, Reply
from schema.ids import is_id

PAGE_AGENTS_AIM: Final = 1_000
"""More only where one millisecond holds more: a gateway notes all it heard in a round at the same moment."""

Page = dict[bytes, bytes]
"""Members of presence with their scores, in the order of these."""


async def pages(connection: Connection, key: str, *, from_ms: int, before_ms: int) -> AsyncIterator[Page]:
    """Yield agents last heard of in [from_ms, before_ms), oldest first, in pages that are not empty.

    An agent heard of again while we read comes in a later page too, or in none if that is past the span.
    """
    while from_ms < before_ms:
        page, from_ms = await _page(connection, key, from_ms, before_ms)
        if page:
            yield page


def agents_of(page: Mapping[bytes, bytes]) -> dict[str, int]:
    """Return the agents of a page with when each was heard of, in ms, without members that are no ids."""
    found = ((member.decode(errors="replace"), time_of(score)) for member, score in page.items())
    return {agent_id: at_ms for agent_id, at_ms in found if is_id(agent_id)}


def time_of(score: bytes) -> int:
    """Return a score as milliseconds."""
    return int(float(score))


async def _page(connection: Connection, key: str, from_ms: int, before_ms: int) -> tuple[Page, int]:
    """Return a page and where the next begins."""
    found: Reply = await connection.send(
        "ZRANGEBYSCORE", key, from_ms, f"({before_ms}", "WITHSCORES", "LIMIT", 0, PAGE_AGENTS_AIM
    )
    if len(found) < 2 * PAGE_AGENTS_AIM:
        return _paired(found), before_ms
    newest_ms = time_of(found[-1])
    if time_of(found[1]) < newest_ms:
        while time_of(found[-1]) == newest_ms:
            del found[-2:]
        return _paired(found), newest_ms
    following_ms = newest_ms + 1
    found = await connection.send("ZRANGEBYSCORE", key, newest_ms, f"({following_ms}", "WITHSCORES")
    return _paired(found), following_ms


def _paired(reply: Reply) -> Page:
    return dict(zip(reply[::2], reply[1::2], strict=True))
