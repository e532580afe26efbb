"""Scheduled messages: in time, once, in their lane."""

import pytest
from keeper_rig import arrived, leased, schedule, server_ms

from broker.streams.connection import Connection
from broker.streams.keys import Keys
from broker.telemetry import metrics
from schema.errors import Fenced
from schema.ids import new_id
from schema.limits import DUE_BATCH_MAX
from schema.message import Lane
from workers.keeping.schedule import LOOK_S, Schedule


async def test_what_is_due_comes_into_its_lane_and_what_is_not_stays(any_connection: Connection) -> None:
    now_ms = await server_ms(any_connection)
    due = {Lane.HIGH: new_id(), Lane.NORMAL: new_id(), Lane.LOW: new_id()}
    async with leased(any_connection, "route") as [route], leased(any_connection, "keep") as [keep]:
        for lane, message_id in due.items():
            await schedule(any_connection, route, {message_id: now_ms - 1}, lane)
        await schedule(any_connection, route, {new_id(): now_ms + 60_000}, Lane.HIGH)

        pause_s = await Schedule(Keys(0), keep).look(any_connection)

    assert {(message_id, lane) for message_id, lane, _ in await arrived(any_connection, 0)} == {
        (message_id, lane) for lane, message_id in due.items()
    }
    assert await any_connection.send("ZCARD", Keys(0).later) == 1
    assert await any_connection.send("HLEN", Keys(0).later_messages) == 1
    assert pause_s == LOOK_S


async def test_a_look_goes_on_while_batches_are_full(connection: Connection) -> None:
    now_ms = await server_ms(connection)
    ids = [new_id() for _ in range(2 * DUE_BATCH_MAX + 1)]
    woken = metrics.KEPT.child(job="scheduled")
    before = woken.value
    async with leased(connection, "route") as [route], leased(connection, "keep") as [keep]:
        for start in range(0, len(ids), 100):
            await schedule(connection, route, dict.fromkeys(ids[start : start + 100], now_ms - 1))
        await Schedule(Keys(0), keep).look(connection)

    assert sorted(message_id for message_id, _, _ in await arrived(connection, 0)) == sorted(ids)
    assert woken.value - before == len(ids)


@pytest.mark.parametrize(("ahead_ms", "longest_s"), [(100, 0.1), (200, 0.2), (60_000, LOOK_S)])
async def test_a_look_ends_when_the_next_message_is_due(
    connection: Connection, ahead_ms: int, longest_s: float
) -> None:
    async with leased(connection, "route") as [route], leased(connection, "keep") as [keep]:
        now_ms = await server_ms(connection)
        await schedule(connection, route, {new_id(): now_ms + ahead_ms})
        pause_s = await Schedule(Keys(0), keep).look(connection)

    assert 0 < pause_s <= longest_s


async def test_nothing_scheduled_still_means_a_look_soon(connection: Connection) -> None:
    async with leased(connection, "keep") as [keep]:
        assert await Schedule(Keys(0), keep).look(connection) == LOOK_S


async def test_a_former_owner_moves_nothing(connection: Connection) -> None:
    now_ms = await server_ms(connection)
    async with leased(connection, "route") as [route]:
        async with leased(connection, "keep") as [stale]:
            pass
        await schedule(connection, route, {new_id(): now_ms - 1})
        with pytest.raises(Fenced):
            await Schedule(Keys(0), stale).look(connection)

    assert await arrived(connection, 0) == []
    assert await connection.send("ZCARD", Keys(0).later) == 1
