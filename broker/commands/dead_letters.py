"""`agent-broker dead-letters`: what failed or expired, and sending it once more.

A replay in bulk goes call by call, and says how far it is on stderr. Stopped in the middle it has lost and
doubled nothing; it says how to go on from there.
"""

import argparse
import sys
from typing import Any, Final

from broker.client.plain import Client
from broker.client.request import given
from broker.commands.output import Column, write_json, write_line, write_rows
from broker.commands.reading import moment
from broker.commands.running import Misuse, add_command, add_group
from schema.dead_letter import ReplayReply
from schema.limits import REPLAY_COUNTED_MAX

COLUMNS: Final[tuple[Column, ...]] = (
    ("id", lambda letter: letter.id),
    ("at", lambda letter: letter.created_at),
    ("from", lambda letter: letter.from_agent_id),
    ("to", lambda letter: letter.to_agent_id),
    ("type", lambda letter: letter.message_type),
    ("status", lambda letter: letter.status),
    ("reason", lambda letter: letter.status_reason),
    ("replays", lambda letter: letter.round),
)
IDS_PER_CALL: Final = 100
SKIPS_SHOWN_MAX: Final = 20


class Progress:
    """What a replay has come to so far."""

    def __init__(self) -> None:
        self.replayed = 0
        self.skipped: dict[str, str] = {}
        self.matching: int | None = None
        self.cursor: str | None = None

    def add(self, reply: ReplayReply) -> None:
        self.replayed += reply.replayed
        self.skipped |= reply.skipped_reasons
        self.matching = reply.matching if self.matching is None else self.matching
        self.cursor = reply.next_cursor

    def show(self) -> None:
        """Say how far it is: on a terminal in place, else a line for each call."""
        total = ""
        if self.matching is not None:
            total = f" of {'at least ' if self.matching >= REPLAY_COUNTED_MAX else ''}{self.matching}"
        line = f"{self.replayed} replayed, {len(self.skipped)} skipped{total}"
        sys.stderr.write(f"\r{line}\x1b[K" if sys.stderr.isatty() else f"{line}\n")
        sys.stderr.flush()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    commands = add_group(parser)
    _add_filter(add_command(commands, "list", _list, help="all of them, or those that match"))
    replay = add_command(commands, "replay", _replay, help="send them once more, under their own ids")
    replay.add_argument("id", nargs="*", help="these, or give a filter")
    _add_filter(replay)
    replay.add_argument("--batch", type=int, help="so many per call, 100 at most")
    replay.add_argument("--cursor", help="go on where a replay with the same filter stopped")


def _add_filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--of", help="only to or from this agent")
    parser.add_argument("--to", help="only to this agent")
    parser.add_argument("--from", dest="sender", help="only from this agent")
    parser.add_argument("--reason", help="only with this reason")
    parser.add_argument("--type", help="only messages of this type")
    parser.add_argument("--since", type=moment, help="only of messages made since (a time, or -1d)")
    parser.add_argument("--until", type=moment, help="only of messages made before (a time, or -1h)")


def _filter(args: argparse.Namespace) -> dict[str, Any]:  # texts and moments
    return given(
        agent_id=args.of,
        to_agent_id=args.to,
        from_agent_id=args.sender,
        reason=args.reason,
        message_type=args.type,
        since=args.since,
        until=args.until,
    )


def _list(client: Client, args: argparse.Namespace) -> None:
    write_rows(client.dead_letters.list(**_filter(args)), COLUMNS, as_json=args.json)


def _replay(client: Client, args: argparse.Namespace) -> None:
    wanted = _filter(args)
    if bool(args.id) == bool(wanted):
        raise Misuse("say which: ids, or --of, --to, --from, --reason, --type, --since, --until")
    progress = Progress()
    if args.id:
        for start in range(0, len(args.id), IDS_PER_CALL):
            _note(progress, client.dead_letters.replay(args.id[start : start + IDS_PER_CALL]), args)
    else:
        progress.cursor = args.cursor
        _replay_all(client, args, wanted, progress)
    if not args.json:
        write_line(f"{progress.replayed} replayed, {len(progress.skipped)} skipped")
        for message_id, why in list(progress.skipped.items())[:SKIPS_SHOWN_MAX]:
            write_line(f"  skipped {message_id}: {why}")


def _replay_all(client: Client, args: argparse.Namespace, wanted: dict[str, Any], progress: Progress) -> None:
    """Replay what a filter finds, call by call. However it ends, it says how to go on."""
    try:
        while True:
            reply = client.dead_letters.replay(**wanted, limit=args.batch, cursor=progress.cursor)
            _note(progress, reply, args)
            if progress.cursor is None:
                break
            progress.show()
    except BaseException:
        if progress.cursor is not None:
            sys.stderr.write(f"\nstopped; to go on: the same with --cursor {progress.cursor}\n")
        raise
    if progress.matching is not None and sys.stderr.isatty():
        sys.stderr.write("\n")


def _note(progress: Progress, reply: ReplayReply, args: argparse.Namespace) -> None:
    progress.add(reply)
    if args.json:
        write_json(reply)
