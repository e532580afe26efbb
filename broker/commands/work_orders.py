"""`agent-broker work-orders`: work asked for, taken on and delivered."""

import argparse
from decimal import Decimal, InvalidOperation
from typing import Final

from broker.client.plain import Client
from broker.commands.output import Column, console, write_fields, write_json, write_rows
from broker.commands.reading import json_of, moment, object_of
from broker.commands.running import Misuse, add_command, add_group, words_of

COLUMNS: Final[tuple[Column, ...]] = (
    ("id", lambda order: order.work_order_id),
    ("title", lambda order: order.title),
    ("status", lambda order: order.status),
    ("from", lambda order: order.from_agent.name or order.from_agent.id),
    ("to", lambda order: _worker(order.to_agent)),
    ("budget", lambda order: order.budget_usd),
    ("deadline", lambda order: order.deadline_at),
    ("created", lambda order: order.created_at),
)
STEP_COLUMNS: Final[tuple[Column, ...]] = (
    ("at", lambda step: step.at),
    ("what", lambda step: step.action),
    ("by", lambda step: step.actor.name if step.actor is not None else step.by),
    ("status", lambda step: step.to_status),
    ("detail", lambda step: step.detail),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    commands = add_group(parser)
    listed = add_command(commands, "list", _list, help="the orders one has to do with, newest first")
    listed.add_argument("--role", choices=("worker", "requester"), default="worker")
    listed.add_argument("--status")
    add_command(commands, "show", _show, help="an order and its history").add_argument("id")
    _add_create(add_command(commands, "create", _create, help="ask for work"))
    accept = add_command(commands, "accept", _accept, help="take an order on; shows its lease")
    accept.add_argument("id")
    accept.add_argument("--estimated-completion", type=moment, help="a time, or +2h")
    _add_ending(add_command(commands, "reject", _reject, help="say no to an order"))
    progress = add_command(commands, "progress", _progress, help="say how far it is; renews the lease")
    progress.add_argument("id")
    progress.add_argument("--lease", required=True)
    progress.add_argument("--note")
    progress.add_argument("--percent", type=int)
    complete = add_command(commands, "complete", _complete, help="deliver the result")
    complete.add_argument("id")
    complete.add_argument("--lease", required=True)
    complete.add_argument("--result", default="null", help="any JSON; `-`: from stdin")
    complete.add_argument("--failed", metavar="REASON", help="it cannot be done, and why")
    _add_ending(add_command(commands, "cancel", _cancel, help="take back an order of one's own"))


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("title")
    parser.add_argument("--to", help="who shall do it, by name or id")
    parser.add_argument("--capability", action="append", help="instead: whoever can and accepts first")
    parser.add_argument("--description", default="")
    parser.add_argument("--requirements", help="a JSON object; `-`: from stdin")
    parser.add_argument("--budget-usd", type=_amount, help="exact, like 1500.50")
    parser.add_argument("--deadline-at", type=moment, help="a time, or +2d")


def _add_ending(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id")
    parser.add_argument("--reason")


def _list(client: Client, args: argparse.Namespace) -> None:
    found = client.work_orders.list(role=args.role, status=args.status)
    write_rows(found, COLUMNS, as_json=args.json)


def _show(client: Client, args: argparse.Namespace) -> None:
    order = client.work_orders.show(args.id)
    if args.json:
        write_json(order)
        return
    write_fields(order, as_json=False, leave_out=("history", "success"))
    console().print()
    write_rows(order.history, STEP_COLUMNS, as_json=False)


def _create(client: Client, args: argparse.Namespace) -> None:
    if args.to is None and not args.capability:
        raise Misuse("say who shall do it: --to or --capability")
    order = client.work_orders.create(
        args.title,
        to=args.to,
        capabilities=words_of(args.capability) or None,
        description=args.description,
        requirements=None if args.requirements is None else object_of(args.requirements),
        budget_usd=args.budget_usd,
        deadline_at=args.deadline_at,
    )
    write_fields(order, as_json=args.json, leave_out=("success",))


def _accept(client: Client, args: argparse.Namespace) -> None:
    order = client.work_orders.accept(args.id, estimated_completion=args.estimated_completion)
    write_fields(order, as_json=args.json, leave_out=("success",))


def _reject(client: Client, args: argparse.Namespace) -> None:
    order = client.work_orders.reject(args.id, args.reason)
    write_fields(order, as_json=args.json, leave_out=("success",))


def _progress(client: Client, args: argparse.Namespace) -> None:
    order = client.work_orders.progress(args.id, args.lease, note=args.note, percent=args.percent)
    write_fields(order, as_json=args.json, leave_out=("success",))


def _complete(client: Client, args: argparse.Namespace) -> None:
    if args.failed is not None:
        order = client.work_orders.fail(args.id, args.lease, args.failed)
    else:
        order = client.work_orders.complete(args.id, args.lease, json_of(args.result))
    write_fields(order, as_json=args.json, leave_out=("success",))


def _cancel(client: Client, args: argparse.Namespace) -> None:
    order = client.work_orders.cancel(args.id, args.reason)
    write_fields(order, as_json=args.json, leave_out=("success",))


def _amount(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount") from None


def _worker(agent: object) -> object:
    return "(open)" if agent is None else getattr(agent, "name", None) or getattr(agent, "id", "")
