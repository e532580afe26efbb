"""`agent-broker send`: one message."""

import argparse
from typing import Any

from broker.client.plain import Client
from broker.client.request import given
from broker.commands.output import write_fields, write_json
from broker.commands.reading import moment, object_of
from broker.commands.running import Misuse, set_command, words_of
from schema.limits import PRIORITY_DEFAULT, WAIT_MS_DEFAULT

RUNGS = ("accepted", "recorded", "delivered", "processed", "reply")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    set_command(parser, _send)
    parser.add_argument("content", nargs="?", default="-", help="a JSON object; `-` or nothing: from stdin")
    parser.add_argument("--to", help="the recipient, by name or id")
    parser.add_argument("--requires", action="append", help="instead: capabilities whoever gets it must have")
    parser.add_argument("--type", default="message", help="message type (default message)")
    parser.add_argument("--text", help='instead of content: shorthand for {"text": ...}')
    parser.add_argument("--priority", type=int, default=PRIORITY_DEFAULT, help="1 (highest) to 10")
    parser.add_argument("--conversation", help="id of the conversation it belongs to")
    parser.add_argument("--reply-to", help="id of the message it answers")
    parser.add_argument("--deliver-at", type=moment, help="not before (a time, or +10m)")
    parser.add_argument("--expires-at", type=moment, help="not after (a time, or +10m)")
    parser.add_argument("--wait", choices=RUNGS, default="recorded", help="how far it must have got")
    parser.add_argument("--timeout-ms", type=int, default=WAIT_MS_DEFAULT, help="how long to wait for that")


def _send(client: Client, args: argparse.Namespace) -> None:
    if args.to is None and not args.requires:
        raise Misuse("say who gets it: --to or --requires")
    sent = client.messages.send(
        {"text": args.text} if args.text is not None else object_of(args.content),
        to=args.to,
        requirements=words_of(args.requires) or None,
        wait=args.wait,
        timeout_ms=args.timeout_ms,
        message_type=args.type,
        **_rest(args),
    )
    if args.wait == "reply" and sent.reply is not None and not args.json:
        write_json(sent.reply.content)
        return
    write_fields(sent, as_json=args.json, leave_out=("metadata", "root_id", "hop", "retry_count"))


def _rest(args: argparse.Namespace) -> dict[str, Any]:  # fields of SendRequest
    return given(
        priority=args.priority,
        conversation_id=args.conversation,
        reply_to=args.reply_to,
        deliver_at=args.deliver_at,
        expires_at=args.expires_at,
    )
