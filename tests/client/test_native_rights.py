"""What a native publisher needs of Redis, and nothing more: the rights that docs/threat-model.md gives it."""

import pytest
import redis
from cluster import client_of, close, servers_of
from publisher_rights import rights, url_of

from broker.client.streams import StreamPublisher, message
from broker.streams.keys import DEPLOYMENT, GatedKeys, Keys
from schema.message import Lane


async def test_a_native_publisher_gets_by_with_the_documented_rights_and_can_do_nothing_else(
    streams_url: str,
) -> None:
    raw = client_of(streams_url)
    raw.hset(DEPLOYMENT, "shards", 2)
    # A user is known to the server that was told.
    for server in servers_of(raw):
        server.execute_command("ACL", "SETUSER", "publisher", *rights())
    url = url_of(streams_url)
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
                *(("XADD", lane, "*", "m", "x") for lane in GatedKeys(0).ingress.values()),
                ("HSET", Keys(0).signed, "normal", "9999999999999-0"),
                ("DEL", Keys(0).signed),
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
        for server in servers_of(raw):
            server.execute_command("ACL", "DELUSER", "publisher")
        close(raw)
