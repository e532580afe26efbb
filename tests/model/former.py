"""Calls a former owner might still make, each of which would change something if it were let through."""

import redis

from broker.streams.connection import Argument
from broker.streams.keys import Keys
from broker.streams.scripts import (
    CLAIM,
    CUT,
    EXPIRE,
    PUT_BACK,
    ROUTE,
    SETTLE,
    SHELVE,
    TAKE_DUE,
    UNPARK,
    VACATE,
    WAKE,
    Script,
)
from schema.message import LANES, Lane

Call = tuple[Script, list[Argument], list[Argument]]
BOX = "inbox:nobody:normal"


def stale_calls(raw: redis.Redis, keys: Keys, trade: str, token: str, life: str) -> list[Call]:
    """Return the calls of a trade, with a token that is no longer good. `life`: the delivery owner of
    now, or, where that is the trade, the one before: nothing may be handed over to it any more."""
    owner = keys.owner(trade)
    mailboxes = sorted(key.decode() for key in raw.keys(f"ab:{{{keys.shard}}}:inbox:*"))
    first = [(box, raw.xrange(box, count=1)[0][0].decode()) for box in mailboxes if raw.xlen(box)]
    [(box, entry)] = first[:1] or [(f"ab:{{{keys.shard}}}:{BOX}", "1-1")]
    match trade:
        case "route":
            return [_route(raw, keys, token, life), _unpark(raw, keys, token)]
        case "deliver":
            settle: list[Argument] = [token, "[{}]", 1, 1, 1, 1, "life.1", 5, f"{box}|{entry}|1"]
            settle += [f"{box}|{entry}|0", f"{box}|{entry}", 1, entry]
            return [
                (SETTLE, [owner, keys.ledger, keys.due, keys.expiry, keys.direct, box], settle),
                (CLAIM, [owner, keys.direct, keys.direct_to], [token, "former"]),
                (SHELVE, [owner, keys.direct, keys.active, box], [token, 5, "life.1", "{}", 1]),
                (TAKE_DUE, [owner, keys.due], [token, 10, 9_000_000_000_000_000]),
                (EXPIRE, [owner, keys.ledger, keys.expiry, box], [token, entry, "{}"]),
                (VACATE, [owner, keys.active, *mailboxes, f"ab:{{{keys.shard}}}:{BOX}"], [token]),
                (PUT_BACK, [owner, keys.due], [token, 7, *raw.zrange(keys.due, 0, -1)]),
                _route(raw, keys, raw.get(keys.owner("route")).decode(), life),
            ]
        case "record":
            return [(CUT, [owner, keys.ledger], [token, "99999999999999-0"])]
        case _:
            return [(WAKE, [owner, keys.later, keys.later_messages, *keys.ingress.values()], [token, 10])]


def _route(raw: redis.Redis, keys: Keys, token: str, life: str) -> Call:
    """Return a call that hands one message over directly, and puts one into a mailbox."""
    box = f"ab:{{{keys.shard}}}:{BOX}"
    names: list[Argument] = [
        keys.owner("route"), keys.seen(1), keys.seen(0), keys.active, keys.ledger, keys.doorbell, keys.expiry,
        keys.parked, keys.chosen, keys.later, keys.later_messages, keys.direct, keys.direct_to,
        *keys.ingress.values(), box, box,
    ]  # fmt: skip
    done = {lane: [entry for entry, _ in raw.xrange(keys.ingress[lane])] for lane in LANES}
    arguments: list[Argument] = [token, 1_000, 5, "ring", 2, 0, "[{},{}]", "2 2", 0, 0, 1, 0, 1, 0, 0]
    arguments += [len(done[lane]) for lane in LANES]
    arguments += [life, 1, 1, "key", "other", 1, "life.1", "{}", 2, "{}", 2, 9]
    return ROUTE, names, arguments + [entry for lane in LANES for entry in done[lane]]


def _unpark(raw: redis.Redis, keys: Keys, token: str) -> Call:
    parked = sorted(raw.hkeys(keys.parked))
    signature = parked[0].decode() if parked else "none:normal"
    lane = keys.ingress[Lane(signature.rpartition(":")[2])]
    names: list[Argument] = [
        keys.owner("route"),
        keys.parked_stream(signature),
        lane,
        keys.parked,
        keys.expiry,
    ]
    return UNPARK, names, [token, 10, signature]
