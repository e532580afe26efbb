"""Reading presence in pages: the agents of one shard last heard of within a span of time.

A page holds whole milliseconds, so the next one simply begins at the next millisecond: an offset would skip
agents whenever one that was read moves on while we read.
"""

from collections.abc import AsyncIterator
from typing import Final

from broker.streams.connection import Connection, Reply
from schema.ids import is_id

PAGE_AGENTS_AIM: Final = 1_000
"""More only where one millisecond holds more: a gateway notes all it heard in a round at the same moment."""


async def pages(
    connection: Connection, key: str, *, from_ms: int, before_ms: int
) -> AsyncIterator[dict[str, int]]:
    """Yield agents last heard of in [from_ms, before_ms) with that time, oldest first, in pages.

    An agent heard of again while we read comes in a later page too, or in none if that is past the span.
    Members that are no ids are left out. Raises: StreamsUnavailable.
    """
    while from_ms < before_ms:
        page, from_ms = await _page(connection, key, from_ms, before_ms)
        if page:
            yield page


async def _page(connection: Connection, key: str, from_ms: int, before_ms: int) -> tuple[dict[str, int], int]:
    """Return a page and where the next begins."""
    found = _parse(
        await connection.send(
            "ZRANGEBYSCORE", key, from_ms, f"({before_ms}", "WITHSCORES", "LIMIT", 0, PAGE_AGENTS_AIM
        )
    )
    if len(found) < PAGE_AGENTS_AIM:
        return _agents(found), before_ms
    newest_ms = found[-1][1]
    if found[0][1] < newest_ms:
        return _agents([sign for sign in found if sign[1] < newest_ms]), newest_ms
    following_ms = newest_ms + 1
    found = _parse(await connection.send("ZRANGEBYSCORE", key, newest_ms, f"({following_ms}", "WITHSCORES"))
    return _agents(found), following_ms


def _parse(reply: Reply) -> list[tuple[str, int]]:
    return [
        (member.decode(errors="replace"), int(float(score)))
        for member, score in zip(reply[::2], reply[1::2], strict=True)
    ]


def _agents(found: list[tuple[str, int]]) -> dict[str, int]:
    return {agent_id: at_ms for agent_id, at_ms in found if is_id(agent_id)}
