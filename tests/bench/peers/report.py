"""What was measured, and the tables it is shown in. Pure."""

from typing import Final

from msgspec import Struct, field

from bench.kit.numbers import median
from bench.kit.report import Findings, Table
from bench.peers.catalogue import OURS_PROMISES, Peer
from bench.peers.stream_part import StreamRun
from bench.peers.turn import IDLE, PUBLISHER, SERVERS, SINK, WORKER, Outcome
from broker.bench.report import Run, middle, middle_cpu
from broker.bench.tables import Cell

OURS: Final = "Agent Broker"
RATE_COLUMNS: Final = [
    "",
    "messages/s",
    "lowest - highest",
    "Agent Broker is",
    "published/s",
    "failed attempts",
    "duplicates",
    "missing",
]
COLUMNS: Final = (WORKER, *SERVERS, SINK, PUBLISHER, IDLE)


class Entry(Struct):
    """Somebody's runs; messages/s by setting tried; rows of failed attempts and rows missing, in all runs."""

    title: str
    promises: str
    lacks: str = ""
    flat_out: list[Run] = field(default_factory=list)
    paced: Run | None = None
    tried: dict[str, float] = field(default_factory=dict)
    failed: int = 0
    rows_missing: int = 0

    @property
    def best(self) -> str:
        """Return the setting that was fastest."""
        return max(self.tried, key=lambda title: self.tried[title])

    def add(self, outcome: Outcome) -> None:
        """Take a run in."""
        self.flat_out.append(outcome.run)
        self.failed += outcome.rows.failed
        self.rows_missing += max(outcome.run.messages - outcome.rows.delivered, 0)


class Measured(Struct):
    """Everything."""

    ours: Entry = field(default_factory=lambda: Entry(OURS, OURS_PROMISES))
    peers: dict[str, Entry] = field(default_factory=dict)
    streams: dict[str, list[StreamRun]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def entry(self, peer: Peer) -> Entry:
        """Return the entry of a peer, made when it is first asked for."""
        return self.peers.setdefault(peer.name, Entry(peer.title, peer.promises, peer.lacks))

    @property
    def entries(self) -> list[Entry]:
        """Everybody who ran to the end, we first."""
        return [one for one in (self.ours, *self.peers.values()) if one.flat_out]


def findings(measured: Measured) -> Findings:
    """Return the tables, and what makes them worthless."""
    tables = [
        _rates(measured),
        _cpu(measured.entries),
        _latencies(measured.entries),
        _terms(measured.entries),
    ]
    if measured.streams:
        tables.append(_streams(measured))
    tables.append(_tried(measured))
    skipped = [f"Skipped {title}: {why}" for title, why in measured.skipped.items()]
    return Findings(
        tables=tables,
        notes=[
            "All do the job: 1,000 agents on 200 ports, retries, acknowledgement after success, a row per "
            "message and per attempt, appendfsync always; rates until the last row is committed.",
            "Agent Broker routes half of its messages by capability and signs pushes; the peers' messages "
            "all name their agent.",
            "A peer's processes run in its turns only; Agent Broker's stay, idle, and have a column for what "
            "that costs.",
            *skipped,
        ],
        wrong=[*measured.wrong, *_wrong(measured.entries)],
    )


def _wrong(entries: list[Entry]) -> list[str]:
    return [
        f"{one.title}: {missing} messages and {one.rows_missing} rows missing"
        for one in entries
        if (missing := sum(run.missing for run in _runs(one))) or one.rows_missing
    ]


def _runs(entry: Entry) -> list[Run]:
    return [*entry.flat_out, *([entry.paced] if entry.paced else [])]


def _rates(measured: Measured) -> Table:
    ours, first = middle(measured.ours.flat_out), measured.ours.flat_out[0]
    rows: list[list[Cell]] = []
    for one in measured.entries:
        rates = [run.per_second for run in one.flat_out]
        published = median([run.published_per_second for run in one.flat_out])
        duplicates = sum(run.duplicates for run in _runs(one))
        missing = sum(run.missing for run in _runs(one))
        middling = middle(one.flat_out)
        share = "" if one is measured.ours or not middling else f"{ours / middling:.1f}x"
        spread = f"{min(rates):,.0f} - {max(rates):,.0f}"
        rows.append([one.title, middling, spread, share, published, one.failed, duplicates, missing])
    return Table(
        "Publish, push, record: until the last row is committed",
        RATE_COLUMNS,
        rows,
        note=f"Medians of {len(measured.ours.flat_out)} turns of {first.messages:,} messages each.",
    )


def _cpu(entries: list[Entry]) -> Table:
    rows: list[list[Cell]] = []
    for one in entries:
        used = _by_column(middle_cpu(one.flat_out))
        total = sum(us for part, us in used.items() if part not in (PUBLISHER, IDLE))
        idle = round(used[IDLE], 1) if one.lacks else None  # it is not idle in its own turns
        busy = [round(used[part], 1) for part in COLUMNS if part != IDLE]
        rows.append([one.title, *busy, idle, round(total, 1)])
    return Table(
        "CPU, microseconds a message",
        ["", *COLUMNS, "sum without the publisher"],
        rows,
        note="Agent Broker's worker column holds its worker, recorder, gateway, keeper and supervisor.",
    )


def _by_column(cpu_us: dict[str, float]) -> dict[str, float]:
    """Sort the parts into columns: the broker's own processes are its worker's."""
    columns = dict.fromkeys(COLUMNS, 0.0)
    for part, us in cpu_us.items():
        columns[part if part in columns else WORKER] += us
    return columns


def _latencies(entries: list[Entry]) -> Table:
    rows: list[list[Cell]] = []
    for one in entries:
        if run := one.paced:
            found = run.latencies
            figures = (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms, run.late_ms_max)
            rows.append([one.title, run.rate, found.count, *figures])
    return Table(
        "Publish to 200 at a paced rate, from the time meant to send",
        ["", "rate/s", "messages", "p50 ms", "p90 ms", "p99 ms", "max ms", "sent late ms"],
        rows,
    )


def _terms(entries: list[Entry]) -> Table:
    rows: list[list[Cell]] = [[one.title, one.promises, one.lacks] for one in entries]
    return Table("What each promises, and lacks of what Agent Broker does", ["", "promises", "lacks"], rows)


def _streams(measured: Measured) -> Table:
    rows: list[list[Cell]] = []
    for title, runs in measured.streams.items():
        cpu = [[run.cpu_us[part] for run in runs] for part in ("server", "publisher", "consumer")]
        rows.append(
            [
                title,
                median([run.published_per_second for run in runs]),
                median([run.acknowledged_per_second for run in runs]),
                *(round(median(values), 1) for values in cpu),
            ]
        )
    published = median([run.published_per_second for run in measured.ours.flat_out])
    rows.append([f"{OURS}, native publish, all else going on", published, None, None, None, None])
    return Table(
        "The stream part alone: publish, read through a group, acknowledge",
        ["", "published/s", "acknowledged/s", "server us", "publisher us", "consumer us"],
        rows,
        note="One publisher and one consumer process, both at once; CPU in microseconds a message.",
    )


def _tried(measured: Measured) -> Table:
    rows: list[list[Cell]] = [
        [one.title, setting, rate, "measured" if setting == one.best else ""]
        for one in measured.peers.values()
        for setting, rate in one.tried.items()
    ]
    return Table("Settings tried on few messages, processes first", ["", "setting", "messages/s", ""], rows)
