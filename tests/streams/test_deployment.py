"""What is fixed when a deployment is created, and that its loss is noticed."""

import pytest
import redis

from broker.streams.connection import Connection
from broker.streams.deployment import agree_on_shards, restore
from schema.errors import Conflict


async def test_what_redis_has_lost_is_restored_and_noticed_once(connection: Connection) -> None:
    assert [await restore(connection, 2) for _ in range(2)] == [True, False]
    with pytest.raises(Conflict):
        await restore(connection, 3)


async def test_what_is_lost_in_the_middle_of_a_look_is_noticed_by_the_next(
    connection: Connection, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await agree_on_shards(connection, 2)
    send, sent = connection.send, 0

    async def losing(*command: str) -> object:
        nonlocal sent
        sent += 1
        reply = await send(*command)
        if sent == 1:
            raw.flushall()
        return reply

    monkeypatch.setattr(connection, "send", losing)
    assert [await restore(connection, 2) for _ in range(2)] == [False, True]
