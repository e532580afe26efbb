"""`agent-broker contacts`: who may write to whom."""

import argparse
from typing import Final

from broker.client.plain import Client
from broker.commands.output import Column, write_fields, write_rows
from broker.commands.reading import moment
from broker.commands.running import add_command, add_group

COLUMNS: Final[tuple[Column, ...]] = (
    ("peer", lambda contact: contact.peer.name),
    ("direction", lambda contact: contact.direction),
    ("status", lambda contact: contact.status.value),
    ("active", lambda contact: contact.is_active),
    ("a minute", lambda contact: contact.rate_per_minute),
    ("expires", lambda contact: contact.expires_at),
    ("since", lambda contact: contact.created_at),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    commands = add_group(parser)
    listed = add_command(commands, "list", _list, help="contacts and requests")
    listed.add_argument("--status", choices=("pending", "accepted", "declined"))
    request = add_command(commands, "request", _request, help="ask an agent to become a contact")
    request.add_argument("to")
    request.add_argument("subject")
    request.add_argument("body", nargs="?", default="")
    accept = add_command(commands, "accept", _accept, help="let a peer write")
    accept.add_argument("peer")
    accept.add_argument("--rate-per-minute", type=int, help="at most so often")
    accept.add_argument("--expires-at", type=moment, help="until then (a time, or +7d)")
    decline = add_command(commands, "decline", _decline, help="let a peer not write")
    decline.add_argument("peer")
    decline.add_argument("--reason")
    add_command(commands, "end", _end, help="end a contact").add_argument("peer")


def _list(client: Client, args: argparse.Namespace) -> None:
    write_rows(client.contacts.list(status=args.status), COLUMNS, as_json=args.json)


def _request(client: Client, args: argparse.Namespace) -> None:
    write_fields(client.contacts.request(args.to, args.subject, args.body), as_json=args.json)


def _accept(client: Client, args: argparse.Namespace) -> None:
    accepted = client.contacts.accept(
        args.peer, rate_per_minute=args.rate_per_minute, expires_at=args.expires_at
    )
    write_fields(accepted, as_json=args.json)


def _decline(client: Client, args: argparse.Namespace) -> None:
    write_fields(client.contacts.decline(args.peer, args.reason), as_json=args.json)


def _end(client: Client, args: argparse.Namespace) -> None:
    write_fields(client.contacts.end(args.peer), as_json=args.json)
