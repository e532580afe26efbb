"""`agent-broker stats`: what has been going on."""

import argparse

from rich.table import Table

from broker.client.plain import Client
from broker.commands.output import console, write_json
from broker.commands.running import set_command
from schema.statistics import StatisticsReply


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    set_command(parser, _stats)
    parser.add_argument("name", nargs="?", help="of this agent; without one: of the key's own, or of all")
    parser.add_argument("--days", type=int, help="of messages made today and so many days before")


def _stats(client: Client, args: argparse.Namespace) -> None:
    found = client.stats.show(args.name, days=args.days)
    if args.json:
        write_json(found)
        return
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(found):
        table.add_row(name, value)
    console().print(table)


def _lines(found: StatisticsReply) -> list[tuple[str, str]]:
    hour = found.throughput
    rate = found.delivery_success_rate
    lines = [
        ("messages", str(found.total_messages)),
        ("  by status", _counts(found.by_status)),
        ("  by type", _counts(found.by_type)),
        ("waiting", str(found.queue_depth)),
        ("ended well", "-" if rate is None else f"{rate:.1%}"),
        ("delivery", f"average {_ms(found.average_delivery_ms)}, p95 {_ms(found.p95_delivery_ms)}"),
        (
            "last hour",
            f"{sum(p.accepted for p in hour)} accepted, {sum(p.delivered for p in hour)} delivered",
        ),
        ("failures", _counts(found.failure_reasons)),
        ("work orders", _counts(found.work_orders.by_status)),
        ("agents online", "unknown" if found.agents_online is None else str(found.agents_online)),
    ]
    if not found.complete:
        lines.append(("", "still counting: part of it is not in here yet"))
    return lines


def _counts(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {name}" for name, count in ordered if count) or "-"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
