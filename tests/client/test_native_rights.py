"""What a native publisher needs of Redis, and nothing more: the rights that docs/threat-model.md gives it."""

import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
from cluster import client_of, close

from broker.client.streams import StreamPublisher, message
from broker.streams.keys import DEPLOYMENT, Keys
from schema.message import Lane

PAGE = Path(__file__).parents[2] / "docs/threat-model.md"


def rights() -> list[str]:
    """Return the rule as the page has it."""
    found = re.search(r"^ACL SETUSER publisher (.+)$", PAGE.read_text(), re.MULTILINE)
    assert found is not None
    return found[1].replace(">a-long-password", ">pw").split()


async def test_a_native_publisher_gets_by_with_the_documented_rights_and_can_do_nothing_else(
    streams_url: str,
) -> None:
    raw = client_of(streams_url)
    raw.hset(DEPLOYMENT, "shards", 2)
    raw.execute_command("ACL", "SETUSER", "publisher", *rights())
    parts = urlsplit(streams_url)
    url = urlunsplit(parts._replace(netloc=f"publisher:pw@{parts.hostname}:{parts.port}"))
    try:
        async with await StreamPublisher.open(url) as publisher:
            await publisher.publish(message({"n": 1}, to="01a20202-11bd-752d-9043-2b8eb2d2a15c"))
        assert sum(raw.xlen(Keys(shard).ingress[Lane.NORMAL]) for shard in range(2)) == 1
        with redis.Redis.from_url(url) as stranger:
            ingress, ledger = Keys(0).ingress[Lane.NORMAL], Keys(0).ledger
            for command in (
                ("XRANGE", ingress, "-", "+"),
                ("XREAD", "STREAMS", ingress, "0"),
                ("XTRIM", ingress, "MAXLEN", "0"),
                ("DEL", ingress),
                ("XADD", ledger, "*", "b", "x"),
                ("XADD", Keys(0).mailbox("x", Lane.NORMAL), "*", "m", "x"),
                ("SET", Keys(0).owner("route"), "1:me"),
                ("HSET", DEPLOYMENT, "shards", "1"),
                ("EVAL", "return 1", "0"),
                ("PUBLISH", "ab:revoked", "x"),
                ("KEYS", "*"),
                ("CONFIG", "GET", "*"),
                ("FLUSHALL",),
                ("ACL", "LIST"),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    stranger.execute_command(*command)
            stranger.connection_pool.disconnect()
    finally:
        raw.execute_command("ACL", "DELUSER", "publisher")
        close(raw)
