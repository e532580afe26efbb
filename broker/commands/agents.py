"""`agent-broker agents`: who there is, and what operators do about it."""

import argparse
from typing import Final

from broker.client.plain import Client
from broker.commands.output import Column, write_fields, write_rows
from broker.commands.running import add_command, add_group, words_of

COLUMNS: Final[tuple[Column, ...]] = (
    ("name", lambda agent: agent.name),
    ("type", lambda agent: agent.type),
    ("status", lambda agent: agent.status),
    ("online", lambda agent: agent.is_online),
    ("capabilities", lambda agent: agent.capabilities),
    ("gets messages by", lambda agent: agent.endpoint or "pulling"),
    ("id", lambda agent: agent.id),
)
KEY_COLUMNS: Final[tuple[Column, ...]] = (
    ("id", lambda key: key.id),
    ("begins with", lambda key: key.prefix),
    ("works", lambda key: key.is_live),
    ("created", lambda key: key.created_at),
    ("last used", lambda key: key.last_used_at),
    ("expires", lambda key: key.expires_at),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    commands = add_group(parser)
    listed = add_command(commands, "list", _list, help="all agents, or those that match")
    listed.add_argument("--type")
    listed.add_argument("--status", choices=("active", "paused", "disabled"))
    listed.add_argument("--capability", action="append", help="may be given several times: all of them")
    listed.add_argument("--online", action="store_true", default=None, help="only those that are online")
    add_command(commands, "show", _show, help="one agent").add_argument("name")
    _add_register(add_command(commands, "register", _register, help="a new agent; shows its key this once"))
    paused = "push nothing to it and route nothing by capability; what names it waits"
    add_command(commands, "pause", _pause, help=paused).add_argument("name")
    add_command(commands, "resume", _resume, help="undo a pause").add_argument("name")
    deleted = add_command(commands, "delete", _delete, help="take an agent away for good")
    deleted.add_argument("name")
    deleted.add_argument("--drain", action="store_true", help="deliver what waits first")
    deleted.add_argument("--timeout-s", type=int, help="how long draining may take")
    _add_keys(add_group(commands.add_parser("keys", help="an agent's API keys")))


def _add_register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")
    parser.add_argument("--type", default="agent")
    parser.add_argument("--endpoint", help="where messages are pushed to; without one the agent pulls")
    parser.add_argument("--capability", action="append", help="may be given several times")


def _add_keys(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    add_command(commands, "list", _list_keys, help="all of them, never the key itself").add_argument("name")
    add_command(commands, "add", _add_key, help="one more; shown this once").add_argument("name")
    rotate = add_command(commands, "rotate", _rotate_key, help="a new one for the newest; shown this once")
    rotate.add_argument("name")
    rotate.add_argument("--overlap-s", type=int, default=86_400, help="the old one works on so long")
    revoke = add_command(commands, "revoke", _revoke_key, help="let one work no more")
    revoke.add_argument("name")
    revoke.add_argument("key_id")


def _list(client: Client, args: argparse.Namespace) -> None:
    found = client.agents.list(
        status=args.status, type=args.type, capabilities=words_of(args.capability), online=args.online
    )
    write_rows(found, COLUMNS, as_json=args.json)


def _show(client: Client, args: argparse.Namespace) -> None:
    write_fields(client.agents.show(args.name), as_json=args.json)


def _register(client: Client, args: argparse.Namespace) -> None:
    registered = client.agents.register(
        args.name, type=args.type, endpoint=args.endpoint, capabilities=words_of(args.capability)
    )
    write_fields(registered, as_json=args.json)


def _pause(client: Client, args: argparse.Namespace) -> None:
    write_fields(client.agents.update(args.name, status="paused"), as_json=args.json)


def _resume(client: Client, args: argparse.Namespace) -> None:
    write_fields(client.agents.update(args.name, status="active"), as_json=args.json)


def _delete(client: Client, args: argparse.Namespace) -> None:
    departure = client.agents.delete(
        args.name, mode="drain" if args.drain else "bounce", timeout_s=args.timeout_s
    )
    write_fields(departure, as_json=args.json)


def _list_keys(client: Client, args: argparse.Namespace) -> None:
    write_rows(client.keys.list(args.name), KEY_COLUMNS, as_json=args.json)


def _add_key(client: Client, args: argparse.Namespace) -> None:
    write_fields(client.keys.add(args.name), as_json=args.json)


def _rotate_key(client: Client, args: argparse.Namespace) -> None:
    write_fields(client.keys.rotate(args.name, overlap_s=args.overlap_s), as_json=args.json)


def _revoke_key(client: Client, args: argparse.Namespace) -> None:
    write_fields(client.keys.revoke(args.name, args.key_id), as_json=args.json)
