"""`agent-broker kill-switches`: agents, pairs and chains of messages that an operator stops."""

import argparse
from typing import Final

from broker.client.plain import Client
from broker.commands.output import Column, write_json, write_line, write_rows
from broker.commands.running import Misuse, add_command, add_group

COLUMNS: Final[tuple[Column, ...]] = (
    ("id", lambda switch: switch.id),
    ("since", lambda switch: switch.created_at),
    ("kind", lambda switch: switch.kind),
    ("what", lambda switch: switch.root_id or switch.agent_id),
    ("and", lambda switch: switch.peer_id),
    ("reason", lambda switch: switch.reason),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    commands = add_group(parser)
    add_command(commands, "list", _list, help="what is switched off")
    switch = add_command(commands, "set", _set, help="switch something off")
    switch.add_argument("target", nargs="?", metavar="agent", help="nothing from it, nothing to it")
    switch.add_argument("--peer", help="with an agent: only what the two send each other")
    switch.add_argument("--root", help="everything that goes back to this message")
    switch.add_argument("--reason", help="why, for those who find it later")
    remove = add_command(commands, "remove", _remove, help="switch something on again")
    remove.add_argument("id")


def _list(client: Client, args: argparse.Namespace) -> None:
    write_rows(client.kill_switches.list(), COLUMNS, as_json=args.json)


def _set(client: Client, args: argparse.Namespace) -> None:
    if (args.target is None) is (args.root is None) or (args.peer is not None and args.target is None):
        raise Misuse("say what: an agent, an agent and --peer, or --root")
    switch = client.kill_switches.set(
        agent_id=args.target, peer_id=args.peer, root_id=args.root, reason=args.reason
    )
    if args.json:
        write_json(switch)
    else:
        write_line(f"switched off: {switch.kind} {switch.root_id or switch.agent_id} ({switch.id})")


def _remove(client: Client, args: argparse.Namespace) -> None:
    done = client.kill_switches.remove(args.id)
    if args.json:
        write_json(done)
    else:
        write_line("switched on again")
