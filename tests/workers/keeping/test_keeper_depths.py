"""Depths of queues: right where everything is measured, near where only a part is."""

import pytest
from keeper_rig import agent_ids

from broker.streams.connection import Connection
from broker.streams.keys import Keys
from broker.telemetry import metrics
from broker.telemetry.metrics import TOP_AGENTS_MAX
from schema.message import Lane
from workers.keeping import depths as depths_module
from workers.keeping.board import Board
from workers.keeping.depths import DepthGauge

KEYS = Keys(0)


async def fill(connection: Connection, stream: str, entries: int) -> None:
    await connection.send_many([("XADD", stream, "*", "m", "{}")] * entries)


async def deposit(connection: Connection, agent_id: str, lane: Lane, entries: int) -> None:
    mailbox = KEYS.mailbox(agent_id, lane)
    await fill(connection, mailbox, entries)
    await connection.send("ZADD", KEYS.active, "NX", entries, mailbox)


async def test_every_queue_is_counted(any_connection: Connection) -> None:
    connection = any_connection
    await fill(connection, KEYS.ingress[Lane.HIGH], 1)
    await fill(connection, KEYS.ingress[Lane.LOW], 2)
    await fill(connection, KEYS.ledger, 4)
    await connection.send("ZADD", KEYS.due, 1, "a", 2, "b")
    await connection.send("ZADD", KEYS.later, 1, "0a")
    await connection.send("HSET", KEYS.parked, "s1", "{}", "s2", "{}")
    await fill(connection, KEYS.parked_stream("s1"), 3)
    await fill(connection, KEYS.parked_stream("s2"), 2)
    [busy, calm] = agent_ids(2)
    await deposit(connection, busy, Lane.HIGH, 5)
    await deposit(connection, busy, Lane.LOW, 2)
    await deposit(connection, calm, Lane.NORMAL, 1)
    await connection.send("HSET", KEYS.direct, "life.1", "{}", "life.2", "{}")

    found = await DepthGauge(KEYS, Board()).measure(connection)

    assert found.queues == {"ingress": 3, "mailbox": 8 + 2, "due": 2, "later": 1, "parked": 5, "ledger": 4}
    assert found.agents == {busy: 7, calm: 1}


async def test_an_empty_shard_has_nothing_anywhere(connection: Connection) -> None:
    found = await DepthGauge(KEYS, Board()).measure(connection)

    assert set(found.queues.values()) == {0}
    assert found.agents == {}


async def test_very_many_mailboxes_are_measured_in_turn(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depths_module, "SAMPLE_MAX", 10)
    agents = agent_ids(35)
    for depth, agent_id in enumerate(agents, 1):
        await deposit(connection, agent_id, Lane.NORMAL, depth)
    gauge = DepthGauge(KEYS, Board())

    found = [await gauge.measure(connection) for _ in range(4)]

    # The first part has the shallowest ten, so the first word is low; a whole turn is exact.
    assert found[0].queues["mailbox"] == round(sum(range(1, 11)) * 3.5)
    assert found[-1].queues["mailbox"] == sum(range(1, 36))
    deepest = {agent_id: depth for depth, agent_id in enumerate(agents, 1) if depth > 35 - TOP_AGENTS_MAX}
    assert found[-1].agents == deepest


async def test_the_deepest_agents_are_measured_at_every_look(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depths_module, "SAMPLE_MAX", 2)
    [deep, *others] = agent_ids(5)
    await deposit(connection, deep, Lane.NORMAL, 9)
    for agent_id in others:
        await deposit(connection, agent_id, Lane.NORMAL, 10)
    gauge = DepthGauge(KEYS, Board())
    await gauge.measure(connection)
    await connection.send("DEL", KEYS.mailbox(deep, Lane.NORMAL))
    await fill(connection, KEYS.mailbox(deep, Lane.HIGH), 4)

    found = await gauge.measure(connection)

    assert found.agents[deep] == 4


async def test_many_signatures_of_parked_messages_are_extrapolated(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depths_module, "SAMPLE_MAX", 10)
    for number in range(30):
        await connection.send("HSET", KEYS.parked, f"s{number}", "{}")
        await fill(connection, KEYS.parked_stream(f"s{number}"), 2)

    found = await DepthGauge(KEYS, Board()).measure(connection)

    assert found.queues["parked"] == 60


async def test_gauges_show_the_sums_of_the_shards_held(connection: Connection) -> None:
    board = Board()
    [first, second] = agent_ids(2)
    await deposit(connection, first, Lane.NORMAL, 2)
    here = await DepthGauge(KEYS, board).measure(connection)
    board.show_depths(0, here)
    board.show_depths(1, depths_module.Depths({"mailbox": 5}, {second: 5}))

    gauge = metrics.QUEUE_DEPTH.child(queue="mailbox")
    assert gauge.now() == 7
    assert [row.value for row in metrics.AGENT_QUEUE_DEPTH.family().samples] == [5, 2]
    board.clear(1)
    assert gauge.now() == 2
    assert [row.labels["agent"] for row in metrics.AGENT_QUEUE_DEPTH.family().samples] == [first]
    board.clear(0)
