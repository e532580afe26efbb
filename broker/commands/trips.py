"""`agent-broker trips`: pairs of agents that were found looping, and letting them go on."""

import argparse
from typing import Final

from broker.client.plain import Client
from broker.commands.output import Column, write_json, write_line, write_rows
from broker.commands.running import add_command, add_group

COLUMNS: Final[tuple[Column, ...]] = (
    ("id", lambda trip: trip.id),
    ("at", lambda trip: trip.tripped_at),
    ("sign", lambda trip: trip.sign),
    ("from", lambda trip: trip.from_agent_id),
    ("to", lambda trip: trip.to_agent_id),
    ("both ways", lambda trip: trip.both_ways),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    commands = add_group(parser)
    add_command(commands, "list", _list, help="the pairs that are stopped")
    reset = add_command(commands, "reset", _reset, help="let a pair write to each other again")
    reset.add_argument("id")


def _list(client: Client, args: argparse.Namespace) -> None:
    write_rows(client.trips.list(), COLUMNS, as_json=args.json)


def _reset(client: Client, args: argparse.Namespace) -> None:
    done = client.trips.reset(args.id)
    if args.json:
        write_json(done)
    else:
        write_line("reset")
