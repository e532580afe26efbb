"""`agent-broker ping`: a word in an agent's inbox, and whether it is there."""

import argparse

from broker.client.plain import Client
from broker.commands.output import write_json, write_line
from broker.commands.running import set_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    set_command(parser, _ping)
    parser.add_argument("to", help="the agent, by name or id")
    parser.add_argument("message", nargs="?", help="what to say")


def _ping(client: Client, args: argparse.Namespace) -> None:
    reply = client.presence.ping(args.to, args.message)
    if args.json:
        write_json(reply)
        return
    target = reply.target_agent
    says = f", says {target.status_message!r}" if target.status_message else ""
    write_line(f"{target.name} is {target.state.value}{says}; the ping lies in its inbox")
