"""`agent-broker route`: why a message went where it went, or where one would go."""

import argparse
from typing import Final

from broker.client.plain import Client
from broker.commands.output import Column, console, write_fields, write_json, write_rows
from broker.commands.reading import object_of
from broker.commands.running import add_command, add_group, words_of

COLUMNS: Final[tuple[Column, ...]] = (
    ("agent", lambda candidate: candidate.name),
    ("chosen", lambda candidate: candidate.chosen),
    ("dropped by", lambda candidate: candidate.dropped_by),
    ("load", lambda candidate: candidate.load),
    ("success rate", lambda candidate: candidate.success_rate),
    ("score", lambda candidate: candidate.score),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    commands = add_group(parser)
    explain = add_command(commands, "explain", _explain, help="where a message would go; nothing is sent")
    explain.add_argument("content", nargs="?", default="{}", help="a JSON object; `-`: from stdin")
    explain.add_argument("--to", help="the recipient, by name or id")
    explain.add_argument("--requires", action="append", help="capabilities whoever gets it must have")
    explain.add_argument("--type", default="message", help="message type")
    add_command(commands, "show", _show, help="why a message went to its agent").add_argument("id")


def _explain(client: Client, args: argparse.Namespace) -> None:
    found = client.messages.explain(
        object_of(args.content),
        to=args.to,
        requirements=words_of(args.requires) or None,
        message_type=args.type,
    )
    if args.json:
        write_json(found)
        return
    write_fields(found, as_json=False, leave_out=("candidates",))
    if found.candidates:
        console().print()
        write_rows(found.candidates, COLUMNS, as_json=False)


def _show(client: Client, args: argparse.Namespace) -> None:
    # Routes are told in the broker's own words, which grow: JSON for people too.
    write_json(client.messages.route(args.id))
