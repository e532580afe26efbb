"""`agent-broker presence`: whether an agent is there, and saying how one is."""

import argparse
from typing import Any

from broker.client.plain import Client
from broker.commands.output import write_fields
from broker.commands.running import Misuse, set_command

ANSWERS = {"yes": True, "no": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    set_command(parser, _presence)
    parser.add_argument("name", nargs="?", help="the agent to look at; without one: say how oneself is")
    parser.add_argument("--say", metavar="TEXT", help="status message; '' for none")
    parser.add_argument("--accepts-work-orders", choices=sorted(ANSWERS))
    parser.add_argument("--max-concurrent-jobs", type=int)


def _presence(client: Client, args: argparse.Namespace) -> None:
    changes: dict[str, Any] = {}  # the arguments of `presence.update`
    if args.say is not None:
        changes["status_message"] = args.say or None
    if args.accepts_work_orders is not None:
        changes["accepts_work_orders"] = ANSWERS[args.accepts_work_orders]
    if args.max_concurrent_jobs is not None:
        changes["max_concurrent_jobs"] = args.max_concurrent_jobs
    if args.name is not None and changes:
        raise Misuse("an agent says only how it is itself: leave the name out")
    if args.name is None:
        write_fields(client.presence.update(**changes), as_json=args.json)
    else:
        write_fields(client.presence.show(args.name), as_json=args.json)
