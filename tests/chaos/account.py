"""What became of every message: the ledger outside is held against Postgres. Pure; reads nothing.

Terms. A *receipt* is one request a receiver saw. An *attempt row* is one attempt on record. A receipt is *cut
off* when its attempt was not settled, and the attempt was made again under the same number: that is where
duplicates come from, and it may happen only to what was in flight while a fault cut off what is in flight. A
*hidden repeat* is the documented exception: within one attempt the request is sent once more where a kept
connection was closed before a byte of an answer, which a fault on the way to the receivers can bring about.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from typing import Final

from msgspec import Struct, field
from outside_ledger import ENDED

from chaos.journal import Spell
from chaos.notes import Line

SETTLED_S: Final = 0.5
"""From an answer to its settlement in Redis, on a machine that has other things to do as well."""
NOTICED_S: Final = 2.0
"""From the end of a fault until its victim has noticed: what it posts meanwhile may be in vain, too."""
NEVER: Final = float("inf")
AUTOMATIC: Final = frozenset(("response", "error"))
"""Types of messages the broker itself sends because of one of ours; they name it in `reply_to`."""


class Receipt(Struct):
    """One request a receiver saw. `answered` is infinite where it never was; `status` is what it was told."""

    id: str
    attempt: int
    agent: str
    at: float
    answered: float = NEVER
    status: int = 0
    verified: bool = True


class Sent(Struct):
    """One message that was to be published."""

    id: str
    to: str | None
    expires: bool
    sender: str | None
    acknowledged: bool = False
    unknown: int = 0
    refused: str = ""


class Row(Struct):
    """One row of `agent_messages`."""

    id: str
    status: str
    reason: str | None
    to: str | None
    type: str
    reply_to: str | None
    round: int = 0


class Attempt(Struct):
    """One row of `message_delivery_log`."""

    number: int
    status: str
    round: int = 0


class World(Struct):
    """Everything that is compared."""

    sent: dict[str, Sent] = field(default_factory=dict)
    receipts: dict[str, list[Receipt]] = field(default_factory=lambda: defaultdict(list))
    pulled: Counter[str] = field(default_factory=Counter)
    automatic: dict[str, str] = field(default_factory=dict)
    """Messages of the broker's own that were seen: id -> the one of ours they are about."""
    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    attempts: dict[str, list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    names: dict[str, str] = field(default_factory=dict)
    """Agents: id -> name, as receivers know them."""


class Account(Struct):
    """Ids by what is wrong with them, and figures."""

    lost: list[str] = field(default_factory=list)
    """Acknowledged, and not on record; or on record as delivered, and no receiver saw it."""
    unexpected: list[str] = field(default_factory=list)
    """Received or on record, and never sent, nor the broker's own answer to what was."""
    stuck: list[str] = field(default_factory=list)
    """Acknowledged or on record, and not ended after the drain."""
    several_ends: list[str] = field(default_factory=list)
    """More than one row on record."""
    wrong_ends: list[str] = field(default_factory=list)
    """Ended in a way that what happened does not explain: expired without an expiry, failed without a failed
    attempt, failed or expired although a receiver took it in peace."""
    wrong_recipients: list[str] = field(default_factory=list)
    """Received by somebody it was not sent to, or, sent by capability, by several."""
    forged: list[str] = field(default_factory=list)
    """A signature that does not fit."""
    unexplained: list[str] = field(default_factory=list)
    """Received again under the same attempt although nothing cut the first one off."""
    missing_rows: list[str] = field(default_factory=list)
    """A receiver saw an attempt that is not on record."""
    double_rows: list[str] = field(default_factory=list)
    """Attempts on record that do not run 1, 2, 3 ... in each round, each once."""
    figures: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)

    def faults(self) -> dict[str, list[str]]:
        """Return what must be empty and is not."""
        lists = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: ids for name, ids in lists if isinstance(ids, list) and ids}


LISTS: Final = tuple(name for name in Account.__struct_fields__ if name not in ("figures", "ends"))


class Windows:
    """The times in which something cut off what was in flight."""

    def __init__(self, spells: Iterable[Spell]) -> None:
        merged: list[list[float]] = []
        for since, until in sorted((spell.since, spell.until + NOTICED_S) for spell in spells):
            if merged and since <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], until)
            else:
                merged.append([since, until])
        self._since = [since for since, _ in merged]
        self._until = [until for _, until in merged]

    def touch(self, receipt: Receipt) -> bool:
        """Tell whether a receipt was in flight in one of them: received, and perhaps not settled."""
        return self.overlap(receipt.at, receipt.answered + SETTLED_S)

    def overlap(self, since: float, until: float) -> bool:
        first = bisect_left(self._until, since)
        return first < len(self._since) and self._since[first] <= until

    @property
    def seconds(self) -> float:
        return sum(until - since for since, until in zip(self._since, self._until, strict=True))


def compare(world: World, spells: Sequence[Spell]) -> Account:
    """Compare. `spells`: every fault of the run."""
    account = Account()
    cutting = Windows(spell for spell in spells if spell.interrupts)
    on_the_way = Windows(spell for spell in spells if spell.target.endswith(">receivers"))
    known = world.sent.keys()
    automatic = {
        *world.automatic,
        *(row.id for rows in world.rows.values() for row in rows if _is_automatic(row, known)),
    }
    account.unexpected = sorted(
        (world.receipts.keys() | world.rows.keys() | world.pulled.keys()) - known - automatic
    )
    for sent in world.sent.values():
        _compare_end(account, world, sent, cutting)
    for message_id in world.rows.keys() - known:
        if not ENDED.issuperset(row.status for row in world.rows[message_id]):
            account.stuck.append(message_id)
        if len(world.rows[message_id]) > 1:
            account.several_ends.append(message_id)
    figures: Counter[str] = Counter()
    for message_id, receipts in world.receipts.items():
        _compare_receipts(account, figures, receipts, world.attempts.get(message_id, []), cutting, on_the_way)
    for message_id, attempts in world.attempts.items():
        if not _is_counted_through(attempts):
            account.double_rows.append(message_id)
    _count(account, world, figures, cutting)
    return account


def _compare_end(account: Account, world: World, sent: Sent, cutting: Windows) -> None:
    rows = world.rows.get(sent.id, [])
    receipts = world.receipts.get(sent.id, [])
    if not rows:
        if sent.acknowledged:
            account.lost.append(sent.id)
        elif receipts or world.pulled[sent.id]:
            account.missing_rows.append(sent.id)
        return
    if len(rows) > 1:
        account.several_ends.append(sent.id)
    row = rows[0]
    if row.status not in ENDED:
        account.stuck.append(sent.id)
    if row.status in ("delivered", "processed") and not receipts and not world.pulled[sent.id]:
        account.lost.append(sent.id)
    if not _is_explained(row, sent, world, cutting):
        account.wrong_ends.append(sent.id)
    takers = {receipt.agent for receipt in receipts}
    if sent.to is not None:
        is_wrong = bool(takers - {world.names.get(sent.to, "")})
    else:
        is_wrong = len(takers) > 1 and not _was_rerouted(world, sent.id)
    if is_wrong:
        account.wrong_recipients.append(sent.id)


def _is_explained(row: Row, sent: Sent, world: World, cutting: Windows) -> bool:
    """Tell whether a message had cause to end the way it did."""
    receipts = world.receipts.get(sent.id, [])
    taken = [receipt for receipt in receipts if 200 <= receipt.status < 300 and not cutting.touch(receipt)]
    succeeded = any(attempt.status == "success" for attempt in world.attempts.get(sent.id, ()))
    match row.status:
        case "expired":
            return sent.expires and not succeeded
        case "failed":
            failed = [a for a in world.attempts.get(sent.id, ()) if a.status != "success"]
            return (row.reason == "poison" or len(failed) > 0) and not succeeded
        case "delivered":
            return succeeded or world.pulled[sent.id] > 0 or bool(taken)
        case _:
            return True


def _was_rerouted(world: World, message_id: str) -> bool:
    """Tell whether the record says that it went to another agent on purpose: after a failed attempt."""
    return any(attempt.status != "success" for attempt in world.attempts.get(message_id, ()))


def _compare_receipts(
    account: Account,
    figures: Counter[str],
    receipts: list[Receipt],
    attempts: Sequence[Attempt],
    cutting: Windows,
    on_the_way: Windows,
) -> None:
    """Hold one message's receipts against its attempt rows."""
    message_id = receipts[0].id
    if not all(receipt.verified for receipt in receipts):
        account.forged.append(message_id)
    recorded = Counter(attempt.number for attempt in attempts)
    seen = Counter(receipt.attempt for receipt in receipts)
    figures["receipts"] += len(receipts)
    figures["received again after a failed attempt"] += len(seen) - 1
    again = len(receipts) - len(seen)
    if again:
        figures["duplicated messages"] += 1
        figures["duplicates"] += again
        figures["duplicates of one message at most"] = max(
            figures["duplicates of one message at most"], again
        )
    for number in seen:
        same = sorted((r for r in receipts if r.attempt == number), key=lambda receipt: receipt.at)
        for receipt in same[:-1]:
            if cutting.touch(receipt):
                figures["cut off and sent again"] += 1
            elif on_the_way.touch(receipt):
                figures["hidden repeats"] += 1
            else:
                account.unexplained.append(message_id)
        if recorded[number] == 0:
            if cutting.touch(same[-1]):
                # The outcome is not known to anybody: its owner died, and the message ended otherwise.
                figures["cut off and never sent again"] += 1
            else:
                account.missing_rows.append(message_id)


def _is_counted_through(attempts: Sequence[Attempt]) -> bool:
    """Tell whether the attempts of each round run 1, 2, 3 ..., each once."""
    rounds: dict[int, list[int]] = defaultdict(list)
    for attempt in attempts:
        rounds[attempt.round].append(attempt.number)
    return all(sorted(numbers) == list(range(1, len(numbers) + 1)) for numbers in rounds.values())


def _count(account: Account, world: World, figures: Counter[str], cutting: Windows) -> None:
    every = [receipt for receipts in world.receipts.values() for receipt in receipts]
    sent = world.sent.values()
    account.figures = {
        "attempted": len(world.sent),
        "acknowledged": sum(one.acknowledged for one in sent),
        "of unknown outcome at some time": sum(one.unknown > 0 for one in sent),
        "never acknowledged": sum(not one.acknowledged and not one.refused for one in sent),
        "never acknowledged, on record all the same": sum(
            not one.acknowledged and one.id in world.rows for one in sent
        ),
        "refused": sum(bool(one.refused) for one in sent),
        "pulled": len(world.pulled),
        "pulled again": sum(count - 1 for count in world.pulled.values()),
        "the broker's own messages": len(world.rows.keys() - world.sent.keys()),
        "attempt rows": sum(map(len, world.attempts.values())),
        "in flight while something was cut off (the bound)": sum(map(cutting.touch, every)),
        "seconds in which something was cut off": round(cutting.seconds),
        "duplicates": 0,
        "duplicates of one message at most": 0,
        "hidden repeats": 0,
        **figures,
    }
    ends = Counter(
        f"{row.status}: {row.reason}" if row.reason else row.status
        for message_id, rows in world.rows.items()
        if message_id in world.sent
        for row in rows
    )
    account.ends = dict(ends.most_common())


def _is_automatic(row: Row, known: Container[str | None]) -> bool:
    return row.type in AUTOMATIC and row.reply_to in known


def read_sent(ledger: Iterable[Line]) -> dict[str, Sent]:
    """Read what publishers noted."""
    sent: dict[str, Sent] = {}
    for line in ledger:
        message_id = line["id"]
        match line["what"]:
            case "attempt":
                sent[message_id] = Sent(
                    message_id, line["to"], line["expires_at"] is not None, line["sender"]
                )
            case "ack":
                sent[message_id].acknowledged = True
            case "unknown":
                sent[message_id].unknown += 1
            case "refused":
                sent[message_id].refused = line["code"]
    return sent


def read_received(world: World, ledger: Iterable[Line]) -> None:
    """Read what receivers noted."""
    by_serial: dict[int, Receipt] = {}
    for line in ledger:
        match line["what"]:
            case "received":
                receipt = Receipt(line["id"], line["attempt"], line["agent"], line["at"],
                                  verified=line["verified"])  # fmt: skip
                by_serial[line["serial"]] = receipt
                world.receipts[receipt.id].append(receipt)
            case "answered":
                receipt = by_serial[line["serial"]]
                receipt.answered, receipt.status = line["at"], line["status"]
            case "pulled":
                world.pulled[line["id"]] += 1
        if line["what"] in ("received", "pulled") and line.get("type") in AUTOMATIC and line.get("reply_to"):
            world.automatic[line["id"]] = line["reply_to"]
