"""The connection on which words are heard: what happens to it ends nobody who listens."""

import asyncio

import pytest
from resetting import resetting

from broker.streams import notifications
from broker.streams.notifications import Notices

FOR_S = 1.5
LISTENERS = 100
STEP_S = 0.00005
"""Each is told a little later than the one before: connecting takes 2-5 ms."""
PATIENCE_S = 20


async def test_a_redis_that_resets_connections_as_soon_as_they_are_made_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifications, "RECONNECT_S", 0.001)
    with resetting() as port:
        task = asyncio.create_task(Notices(f"redis://127.0.0.1:{port}/0", {"word": print}).run())
        await asyncio.wait((task,), timeout=FOR_S)
        assert not task.done()
        task.cancel()
        await asyncio.wait((task,))


async def test_a_listener_told_to_end_while_it_connects_ends(streams_url: str) -> None:
    """redis-py may swallow a cancellation that meets it connecting, and a task group does not repeat it."""
    listening = []
    for number in range(LISTENERS):
        listening.append(asyncio.create_task(Notices(streams_url, {"word": print}).run()))
        await asyncio.sleep(number * STEP_S)
        listening[-1].cancel()
    done, pending = await asyncio.wait(listening, timeout=PATIENCE_S)
    for task in pending:
        task.cancel()
    assert len(done) == LISTENERS
