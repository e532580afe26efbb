"""Receipts: heard by the gateway they are for, by all, and again after the connection was lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streams_rig import until

from broker.streams import notifications
from broker.streams.notifications import Notices, hear_receipts, publish
from schema.ledger import Receipt


@asynccontextmanager
async def listening(url: str, gateway: str, heard: list[Receipt]) -> AsyncIterator[Notices]:
    notices = Notices(url)
    hear_receipts(notices, gateway_id=gateway, on_receipts=heard.extend)
    task = asyncio.ensure_future(notices.run())
    async with asyncio.timeout(10):
        await notices.listening.wait()
    yield notices
    task.cancel()
    await asyncio.wait([task])


async def test_receipts_reach_whom_they_are_for(any_streams_url, connection):
    one: list[Receipt] = []
    two: list[Receipt] = []
    async with listening(any_streams_url, "gw1", one), listening(any_streams_url, "gw2", two):
        await publish(
            connection,
            [
                ("gw1", Receipt("a", "recorded")),
                ("gw2", Receipt("b", "delivered")),
                ("gw1", Receipt("c", "ended")),
            ],
        )
        await publish(connection, [("*", Receipt("d", "processed"))])
        await publish(connection, [])
        await until(lambda: len(one) == 3 and len(two) == 2)
    assert [(receipt.id, receipt.rung) for receipt in one] == [
        ("a", "recorded"),
        ("c", "ended"),
        ("d", "processed"),
    ]
    assert [receipt.id for receipt in two] == ["b", "d"]


async def test_a_listener_comes_back_after_its_connection_was_lost(
    any_streams_url, connection, raw, monkeypatch
):
    monkeypatch.setattr(notifications, "RECONNECT_S", 0.01)
    heard: list[Receipt] = []
    async with listening(any_streams_url, "gw", heard) as notices:
        raw.client_kill_filter(_type="pubsub")
        await until(lambda: not notices.listening.is_set())
        async with asyncio.timeout(10):
            await notices.listening.wait()
        await publish(connection, [("gw", Receipt("a", "recorded"))])
        await until(lambda: len(heard) == 1)


async def test_channels_are_heard_by_all_their_handlers_also_when_added_while_listening(
    any_streams_url, connection, monkeypatch
):
    monkeypatch.setattr(notifications, "LOOK_S", 0.01)
    heard: list[tuple[str, bytes]] = []
    async with listening(any_streams_url, "gw", []) as notices:
        for name in ("first", "second"):
            notices.on("ab:arrived", lambda data, name=name: heard.append((name, data)))
        assert not notices.listening.is_set()
        async with asyncio.timeout(10):
            await notices.listening.wait()
        await connection.send("PUBLISH", "ab:arrived", "x")
        await until(lambda: len(heard) == 2)
    assert heard == [("first", b"x"), ("second", b"x")]


async def test_a_handler_that_fails_silences_nobody(any_streams_url, connection):
    heard: list[Receipt] = []
    async with listening(any_streams_url, "gw", heard):
        await connection.send("PUBLISH", "ab:notify:gw", "not JSON")
        await publish(connection, [("gw", Receipt("a", "recorded"))])
        await until(lambda: len(heard) == 1)
