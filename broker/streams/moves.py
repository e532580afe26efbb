"""The route call: one script call that moves a batch of messages from the ingress to where they belong."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct, field

from broker.streams.connection import Argument, Connection, Reply
from broker.streams.keys import Keys
from broker.streams.scripts import ROUTE
from schema.message import LANES, Lane

_NO_TARGET: Final = 0
_LATER: Final = -1
LANE_NUMBER: Final = {lane: str(number) for number, lane in enumerate(LANES)}


class Move(Struct, gc=False):
    """What happens to one message.

    `key`: deduplication key, empty for none. `target`: stream it goes to; None: its way ends here and only
    `event` stays. `moment`: when it expires, or, for `later`, when it is due (server ms). `member`: its name
    among the scheduled ones.
    """

    key: bytes
    target: str | None
    message: bytes = b""
    waiter: str = ""
    event: bytes = b""
    moment: int | None = None
    later: str = ""


class RouteBatch(Struct):
    """Moves of one call, and what else changes with them.

    `activate`: targets to put on the active set. `parked`: requirements by signature. `forget`: choices that
    have arrived. `done`: ingress entries that are finished with these moves. `ring`: mailboxes a delivery
    owner in another process should look at. `pulling`: recipients without an endpoint; not part of the call.
    """

    moves: list[Move] = field(default_factory=list)
    activate: set[str] = field(default_factory=set)
    parked: dict[str, bytes] = field(default_factory=dict)
    forget: list[str] = field(default_factory=list)
    done: dict[Lane, list[str]] = field(default_factory=lambda: {lane: [] for lane in LANES})
    ring: list[str] = field(default_factory=list)
    pulling: set[str] = field(default_factory=set)


def call_route(
    connection: Connection,
    keys: Keys,
    batch: RouteBatch,
    *,
    owner: str,
    window_ms: int,
    now_ms: int,
    on_reply: Callable[[Reply], None],
) -> None:
    """Send the batch. The reply has, per move, the entry id in its target (b"" without one), or None for a
    duplicate; or it is a BrokerError (Fenced, StreamsFull: nothing has changed).
    """
    window = now_ms // window_ms
    targets = list(dict.fromkeys(move.target for move in batch.moves if move.target is not None))
    place = {target: index for index, target in enumerate(targets, 1)}
    script_keys: list[Argument] = [
        keys.owner("route"), keys.seen(window), keys.seen(window - 1), keys.active, keys.ledger,
        keys.doorbell, keys.expiry, keys.parked, keys.chosen, keys.later, keys.later_messages,
        *keys.ingress.values(), *targets,
    ]  # fmt: skip
    arguments: list[Argument] = [
        owner, 2 * window_ms, now_ms, " ".join(batch.ring),
        len(batch.moves), len(batch.activate), len(batch.parked), len(batch.forget),
        *(len(entries) for entries in batch.done.values()),
    ]  # fmt: skip
    for move in batch.moves:
        arguments += _arguments_of(move, place)
    arguments += [place[target] for target in batch.activate]
    for signature, requirements in batch.parked.items():
        arguments += (signature, requirements)
    arguments += batch.forget
    for entries in batch.done.values():
        arguments += entries
    connection.run(ROUTE, script_keys, arguments, on_reply)


def _arguments_of(move: Move, place: dict[str, int]) -> tuple[Argument, ...]:
    if move.later:
        target = _LATER
    else:
        target = _NO_TARGET if move.target is None else place[move.target]
    moment = "" if move.moment is None else move.moment
    return (move.key, target, move.message, move.later or move.waiter, move.event, moment)
