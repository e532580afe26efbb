"""Receipts: heard by the gateway they are for, by all, and again after the connection was lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streams_rig import until

from broker.streams import notifications
from broker.streams.notifications import Receipts, publish
from schema.ledger import Receipt


@asynccontextmanager
async def listening(url: str, gateway: str, heard: list[Receipt]) -> AsyncIterator[Receipts]:
    receipts = Receipts(url, gateway_id=gateway, on_receipts=heard.extend)
    task = asyncio.ensure_future(receipts.run())
    async with asyncio.timeout(10):
        await receipts.listening.wait()
    yield receipts
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
    async with listening(any_streams_url, "gw", heard) as receipts:
        raw.client_kill_filter(_type="pubsub")
        await until(lambda: not receipts.listening.is_set())
        async with asyncio.timeout(10):
            await receipts.listening.wait()
        await publish(connection, [("gw", Receipt("a", "recorded"))])
        await until(lambda: len(heard) == 1)
