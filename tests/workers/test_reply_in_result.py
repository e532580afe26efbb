"""A reply in the body of a 2xx, when the message names no sender: it is the result of the message."""

import pytest
from worker_rig import World, message

from schema.message import Status


@pytest.mark.parametrize(
    ("body", "status", "result"),
    [
        (b'{"reply":{"n":1}}', Status.DELIVERED, b'{"n":1}'),
        (b'{"status":"processed","reply":{"n":1}}', Status.PROCESSED, b'{"n":1}'),
        (b'{"status":"processed","result":{"r":2},"reply":{"n":1}}', Status.PROCESSED, b'{"r":2}'),
        (b'{"result":{"r":2},"reply":{"n":1}}', Status.DELIVERED, b'{"n":1}'),
        (b'{"reply":null}', Status.DELIVERED, None),
    ],
)
async def test_a_reply_to_nobody_is_the_result(streams_url, body, status, result):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        answerer = world.agent(receiver)
        receiver.script = lambda _: (200, body)
        await world.site()
        [sent] = await world.send(message(answerer))
        await world.until_ended([sent])
        await world.until_clean()
        assert list(world.by_id()) == [sent]
        end = world.by_id()[sent][-1]
        assert end.status is status
        assert (bytes(end.result) if end.result else None) == result
