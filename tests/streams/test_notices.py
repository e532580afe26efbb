"""The connection on which words are heard: what happens to it ends nobody who listens."""

import asyncio

import pytest
from resetting import resetting

from broker.streams import notifications
from broker.streams.notifications import Notices

FOR_S = 1.5


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
