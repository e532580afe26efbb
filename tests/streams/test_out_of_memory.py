"""Redis at its memory limit: publishing and routing are refused whole, what frees memory goes on."""

from collections.abc import Iterator

import pytest
import redis
from cluster import one_server
from streams_rig import OWNER, Move, dump, moves, route, settle

from broker.streams.moves import RouteBatch
from broker.streams.scripts import CLAIM, SHELVE
from broker.streams.settlement import Settlement
from schema.codec import encode
from schema.errors import StreamsFull
from schema.ledger import Event, EventKind
from schema.message import Lane, Status

pytestmark = one_server

BOX = "ab:{0}:inbox:agent:normal"
EVENT = encode(Event(kind=EventKind.SETTLED, id="a", at_ms=1, status=Status.DELIVERED))


@pytest.fixture
def full(raw: redis.Redis, keys) -> Iterator[redis.Redis]:
    """A Redis at its memory limit, with one message in a mailbox and one in the ingress."""
    raw.set("ballast", b"x" * 4_000_000)
    raw.set(keys.direct_to, "life")
    raw.xadd(keys.ingress[Lane.HIGH], {"m": "x"}, id="5-5")
    raw.xadd(BOX, {"m": "{}"}, id="5-5")
    raw.xadd(BOX, {"m": "{}"}, id="6-6")
    before = int(raw.config_get("maxmemory")["maxmemory"])
    raw.config_set("maxmemory", 2_000_000)
    yield raw
    raw.config_set("maxmemory", before)


def handed_over() -> RouteBatch:
    batch = RouteBatch(recipient="life")
    batch.hand_over(b"k", "a.1", b"{}")
    return batch


BATCHES = {
    "to a mailbox": lambda: moves(Move(b"k", BOX, b"{}")),
    "without a key": lambda: moves(Move(b"", BOX, b"{}")),
    "only events": lambda: moves(Move(b"", None, event=b"{}"), Move(b"", None, event=b"{}")),
    "scheduled": lambda: moves(Move(b"", None, b"{}", later="0x", moment=1)),
    "many": lambda: moves(*(Move(b"%d" % n, BOX, b"{}", event=b"{}", moment=1) for n in range(100))),
    "handed over": lambda: handed_over(),
    "parked": lambda: moves(Move(b"k", "ab:{0}:parked:x:low", b"{}")),
}


@pytest.mark.parametrize("make", BATCHES.values(), ids=BATCHES.keys())
async def test_a_batch_is_refused_whole(connection, keys, full, make):
    before = dump(full)
    batch = make()
    batch.done[Lane.HIGH].append("5-5")
    batch.activate = {target for target in batch.targets if "inbox" in target}
    with pytest.raises(StreamsFull):
        await route(connection, keys, batch)
    assert dump(full) == before


SETTLEMENTS = {
    "finished": Settlement(finished={BOX: ["5-5"]}, events=[EVENT]),
    "finished and retried": Settlement(finished={BOX: ["5-5"]}, events=[EVENT], retries={f"{BOX}|6-6|1": 5}),
    "only a retry": Settlement(events=[EVENT], retries={f"{BOX}|6-6|1": 5}),
    "only an event": Settlement(events=[EVENT]),
}


@pytest.mark.parametrize("settlement", SETTLEMENTS.values(), ids=SETTLEMENTS.keys())
async def test_settling_goes_on(connection, keys, full, settlement):
    """What was attempted must come to its end, or nothing would ever be freed."""
    await settle(connection, keys, settlement)
    assert full.xlen(keys.ledger) == 1
    assert full.xlen(BOX) == 2 - len(settlement.finished)
    assert full.zcard(keys.due) == len(settlement.retries)


async def test_what_was_handed_over_is_taken_over_shelved_and_settled(connection, keys, full):
    before = int(full.config_get("maxmemory")["maxmemory"])
    full.config_set("maxmemory", 0)
    full.hset(keys.direct, mapping={"a.1": "{}", "a.2": "{}"})
    full.config_set("maxmemory", before)
    scripts_keys = (keys.owner("deliver"), keys.direct, keys.direct_to)
    assert len(await connection.evaluate(CLAIM, scripts_keys, OWNER, "life")) == 2
    scripts_keys = (keys.owner("deliver"), keys.direct, keys.active, BOX)
    await connection.evaluate(SHELVE, scripts_keys, OWNER, 5, "a.1", b"{}", 1)
    await settle(connection, keys, Settlement(direct=["a.2"], events=[EVENT]))
    assert full.hlen(keys.direct) == 0
    assert full.xlen(BOX) == 3


async def test_publishing_is_refused_in_words_the_gateway_understands(connection, keys, full):
    with pytest.raises(StreamsFull):
        await connection.send("XADD", keys.ingress[Lane.HIGH], "*", "m", "x")
    assert connection.is_open
