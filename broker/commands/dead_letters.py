"""`agent-broker dead-letters`: what failed or expired, and sending it once more."""

import argparse
from typing import Final

from broker.client.plain import Client
from broker.commands.output import Column, write_json, write_line, write_rows
from broker.commands.reading import moment
from broker.commands.running import Misuse, add_command, add_group
from schema.dead_letter import ReplayReply

COLUMNS: Final[tuple[Column, ...]] = (
    ("id", lambda letter: letter.id),
    ("at", lambda letter: letter.created_at),
    ("to", lambda letter: letter.to_agent_id),
    ("type", lambda letter: letter.message_type),
    ("status", lambda letter: letter.status),
    ("reason", lambda letter: letter.status_reason),
    ("replays", lambda letter: letter.round),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    commands = add_group(parser)
    _add_filter(add_command(commands, "list", _list, help="all of them, or those that match"))
    replay = add_command(commands, "replay", _replay, help="send them once more, under their own ids")
    replay.add_argument("id", nargs="*", help="these, or give a filter")
    _add_filter(replay)


def _add_filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", help="only to this agent")
    parser.add_argument("--reason", help="only with this reason")
    parser.add_argument("--since", type=moment, help="only of messages made since (a time, or -1d)")


def _list(client: Client, args: argparse.Namespace) -> None:
    found = client.dead_letters.list(agent_id=args.to, reason=args.reason, since=args.since)
    write_rows(found, COLUMNS, as_json=args.json)


def _replay(client: Client, args: argparse.Namespace) -> None:
    filters = {"agent_id": args.to, "reason": args.reason, "since": args.since}
    if not args.id and not any(filters.values()):
        raise Misuse("say which: ids, or --to, --reason, --since")
    reply = client.dead_letters.replay(args.id or None, **filters)
    while True:
        _write(reply, as_json=args.json)
        if not reply.more or reply.next_cursor is None:
            return
        reply = client.dead_letters.replay(args.id or None, **filters, cursor=reply.next_cursor)


def _write(reply: ReplayReply, *, as_json: bool) -> None:
    if as_json:
        write_json(reply)
    else:
        write_line(f"{reply.replayed} replayed, {reply.skipped} skipped")
        for skipped in reply.skipped_ids:
            write_line(f"  skipped {skipped}")
