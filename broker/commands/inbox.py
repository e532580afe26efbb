"""`agent-broker inbox`: what waits for an agent, once or as it comes."""

import argparse
import time
from collections.abc import Iterator
from itertools import islice
from typing import Final

from broker.client.plain import Client
from broker.client.values import ReceivedMessage
from broker.commands.output import Column, cell, write_json, write_line, write_rows
from broker.commands.running import set_command
from schema.limits import PAGE_ROWS_MAX

FOLLOW_WAIT_MS: Final = 20_000
LOOK_S: Final = 1.0
"""Between two looks at an inbox whose messages are all known: they end every long poll at once."""
DEFAULT_ROWS: Final = 50

COLUMNS: Final[tuple[Column, ...]] = (
    ("id", lambda message: message.message_id),
    ("at", lambda message: message.created_at),
    ("from", lambda message: _sender(message)),
    ("type", lambda message: message.type),
    ("status", lambda message: message.status),
    ("content", lambda message: message.body or message.content),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    set_command(parser, _inbox)
    parser.add_argument("--status", default="pending", help="pending (default), all, or another status")
    parser.add_argument("--type", help="only this message type")
    parser.add_argument("--limit", type=int, default=DEFAULT_ROWS, help=f"at most (default {DEFAULT_ROWS})")
    parser.add_argument("--follow", action="store_true", help="go on with what arrives, until Ctrl-C")
    parser.add_argument("--read", action="store_true", help="mark what is shown as read: no longer pending")


def _inbox(client: Client, args: argparse.Namespace) -> None:
    if args.follow:
        for message in _arriving(client, args):
            _write_line(message, as_json=args.json)
            _mark(client, message, args)
        return
    found = list(islice(client.inbox.list(status=args.status, type=args.type), args.limit))
    write_rows(found, COLUMNS, as_json=args.json)
    for message in found:
        _mark(client, message, args)


def _arriving(client: Client, args: argparse.Namespace) -> Iterator[ReceivedMessage]:
    """Yield what waits and what comes, each message once."""
    seen: set[str] = set()
    while True:
        page = client.inbox.page(
            status=args.status, type=args.type, limit=PAGE_ROWS_MAX, wait_ms=FOLLOW_WAIT_MS
        )
        here = list(page.messages)
        while page.next_cursor is not None:
            page = client.inbox.page(
                status=args.status, type=args.type, limit=PAGE_ROWS_MAX, cursor=page.next_cursor
            )
            here += page.messages
        yield from (message for message in here if message.message_id not in seen)
        # What has left the inbox need not be remembered: it does not come back.
        seen = {message.message_id for message in here}
        if here:
            time.sleep(LOOK_S)


def _mark(client: Client, message: ReceivedMessage, args: argparse.Namespace) -> None:
    if args.read and message.status == "pending":
        client.inbox.mark_read(message.message_id)


def _write_line(message: ReceivedMessage, *, as_json: bool) -> None:
    if as_json:
        write_json(message)
    else:
        write_line("  ".join(cell(show(message)) for _, show in COLUMNS))


def _sender(message: ReceivedMessage) -> str:
    if message.from_agent is None:
        return "operator"
    return message.from_agent.name or message.from_agent.id
