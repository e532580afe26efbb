"""`agent-broker <command>`: reads arguments and settings, then hands over to the role.

Roles are imported only when asked for, so that every command starts fast.

Exit codes: 0 stopped as asked, 1 failed, 2 wrong arguments or settings, 3 the data directory is in use. Those
of the commands that ask a running broker are in `broker.commands.running`.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from broker.settings import STORES, Settings, load
from broker.settings_words import accepted, default_of, example
from broker.supervisor import lifeline
from broker.telemetry import logs
from broker.telemetry.metrics import installed_version

ORPHAN_GRACE_S: Final = 5.0
DEFAULT_TRADES: Final = "route,deliver"
ASKING: Final = {
    "agents": "who there is: list, show, register, pause, resume, delete, keys",
    "send": "send a message to an agent, or to one that can do something",
    "inbox": "what waits for an agent, or what comes",
    "ping": "leave a word with an agent, and see whether it is there",
    "presence": "whether an agent is there, or say how oneself is",
    "contacts": "who may write to whom: list, request, accept, decline, end",
    "work-orders": "list, show, create, accept, reject, progress, complete, cancel",
    "dead-letters": "what failed or expired: list, replay",
    "trips": "pairs of agents that were found looping: list, reset",
    "kill-switches": "what is stopped by hand: list, set, remove",
    "stats": "what has been going on",
    "route": "where a message would go, and why one went where it went",
}
"""Commands that ask a running broker, each in a module of `broker.commands`."""

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser(words).parse_args(words)
    command: Command = args.command
    return command(args)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agent-broker",
        description="An event-driven broker between software agents.",
        epilog="Settings come from the environment: see `agent-broker settings`.",
    )
    parser.add_argument("--version", action="version", version=f"agent-broker {installed_version()}")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_up(commands.add_parser("up", help="the whole broker on this machine, its own servers included"))
    _add_gateway(commands.add_parser("gateway", help="the HTTP edge"))
    _add_worker(commands.add_parser("worker", help="routing and delivery"))
    _add_role(commands.add_parser("recorder", help="from the ledger to Postgres"), _recorder)
    _add_role(commands.add_parser("keeper", help="due retries, expiry, schedules, partitions"), _keeper)
    commands.add_parser("migrate", help="bring the database's schema up to date").set_defaults(
        command=_migrate
    )
    _add_secrets(commands.add_parser("secrets", help="how agents' secrets are encrypted in the database"))
    _add_program(
        commands.add_parser("doctor", help="what is wrong with the stores and settings, and how to mend it"),
        words,
    )
    _add_settings(commands.add_parser("settings", help="list every setting, its bounds and its default"))
    _add_program(
        commands.add_parser("demo", help="a small fleet of agents at work, on a running broker"), words
    )
    _add_program(
        commands.add_parser("bench", help="throughput and latency, beside a bare-loop ceiling"), words
    )
    for name, help in ASKING.items():
        _add_asking(commands.add_parser(name, help=help, description=help), words)
    return parser


def _add_asking(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Add the arguments of a command that asks a running broker, importing it only when it was asked for."""
    name = parser.prog.split()[-1]
    if name in words[:1]:
        import_module(f"broker.commands.{name.replace('-', '_')}").add_arguments(parser)


def _add_up(parser: argparse.ArgumentParser) -> None:
    _add_listen(parser)
    parser.add_argument("--data-dir", help="where servers keep their data (default .agent-broker)")
    parser.add_argument("--workers", type=int, help="worker processes (default 1)")
    parser.set_defaults(command=_up)


def _add_gateway(parser: argparse.ArgumentParser) -> None:
    _add_listen(parser)
    _add_instance(parser)
    parser.set_defaults(command=_gateway)


def _add_worker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trades", default=DEFAULT_TRADES, help="route, deliver or both (default), separated by a comma"
    )
    _add_role(parser, _worker)


def _add_role(parser: argparse.ArgumentParser, command: Command) -> None:
    _add_metrics_port(parser)
    _add_instance(parser)
    parser.set_defaults(command=command)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", action="store_true", help="as a file of environment variables")
    parser.set_defaults(command=_settings)


def _add_secrets(parser: argparse.ArgumentParser) -> None:
    todo = parser.add_subparsers(required=True, metavar="what")
    rotate = todo.add_parser("rotate", help="encrypt every one with the first key of SECRETS_KEY")
    rotate.set_defaults(command=_rotate_secrets)


def _add_program(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Add a program's own arguments, importing it only when it is what was asked for."""
    name = parser.prog.split()[-1]
    parser.set_defaults(command={"demo": _demo, "bench": _bench, "doctor": _doctor}[name])
    if name not in words[:1]:
        return
    if name == "demo":
        from broker.demo.run import add_arguments
    elif name == "doctor":
        from broker.doctor.run import add_arguments
    else:
        from broker.bench.run import add_arguments
    add_arguments(parser)


def _add_listen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="where to listen (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="where to listen (default 8080; 0: any free port)")
    _add_metrics_port(parser)


def _add_metrics_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metrics-port", type=int, help="where metrics are served (default 9464; 0: any)")


def _add_instance(parser: argparse.ArgumentParser) -> None:
    # How `up` recognises its own processes in a process table.
    parser.add_argument("--instance", help=argparse.SUPPRESS)


def _up(args: argparse.Namespace) -> int:
    from broker.supervisor.up import main as run

    # At a terminal people read the log; LOG_FORMAT still decides where it is set.
    log_format = "text" if sys.stderr.isatty() and "LOG_FORMAT" not in os.environ else None
    settings = load(
        host=args.host,
        port=args.port,
        metrics_port=args.metrics_port,
        data_dir=args.data_dir,
        message_queue_workers=args.workers,
        log_format=log_format,
    )
    logs.catch_crashes()
    return run(settings)


def _gateway(args: argparse.Namespace) -> int:
    settings = _role_settings(args, needs=(*STORES, "agent_api_key"), host=args.host, port=args.port)
    from broker.gateway.serve import main as run

    return run(settings)


def _worker(args: argparse.Namespace) -> int:
    trades = tuple(trade.strip() for trade in args.trades.split(","))
    if not set(trades) <= {"route", "deliver"} or len(set(trades)) != len(trades):
        sys.stderr.write(f"agent-broker: --trades {args.trades}: accepted: route, deliver or route,deliver\n")
        return 2
    settings = _role_settings(args)
    from workers.worker import main as run

    return run(settings, trades=trades)


def _recorder(args: argparse.Namespace) -> int:
    settings = _role_settings(args)
    from workers.recorder import main as run

    return run(settings)


def _keeper(args: argparse.Namespace) -> int:
    settings = _role_settings(args)
    from workers.keeper import main as run

    return run(settings)


def _role_settings(
    args: argparse.Namespace, *, needs: Sequence[str] = STORES, **overrides: object
) -> Settings:
    settings = load(needs, metrics_port=args.metrics_port, **overrides)
    logs.catch_crashes()
    lifeline.follow(os.environ, patience_s=settings.drain_timeout_ms / 1000 + ORPHAN_GRACE_S)
    return settings


def _migrate(_: argparse.Namespace) -> int:
    from broker.store.migrate import migrate
    from schema.errors import BrokerError

    settings = load(("database_url",))
    try:
        applied = asyncio.run(migrate(settings.database_url))
    except BrokerError as error:
        sys.stderr.write(f"agent-broker: {error}\n")
        return 1
    print("\n".join(f"applied {name}" for name in applied) or "nothing to apply")
    return 0


def _rotate_secrets(_: argparse.Namespace) -> int:
    from broker.store.pool import open_pool
    from broker.store.sealing import Sealed, seal_all
    from schema.errors import BrokerError

    settings = _of_running()

    async def rotate() -> Sealed:
        pool = await open_pool(
            settings.database_url,
            size=1,
            application_name="agent-broker secrets",
            secrets_keys=settings.secrets_keys,
        )
        try:
            return await seal_all(pool)
        finally:
            await pool.aclose()

    try:
        done = asyncio.run(rotate())
    except BrokerError as error:
        sys.stderr.write(f"agent-broker: {error}\n")
        return 1
    print(f"{done.agents} agents' secrets encrypted with the first key")
    for agent_id in done.unreadable:
        sys.stderr.write(f"agent-broker: no key of SECRETS_KEY opens the secret of agent {agent_id}\n")
    return 1 if done.unreadable else 0


def _settings(args: argparse.Namespace) -> int:
    if args.env:
        sys.stdout.write(example(Settings.model_fields))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(pad_edge=False, box=None, padding=(0, 2, 1, 0))
    table.add_column("variable", no_wrap=True)
    table.add_column("default", no_wrap=True)
    table.add_column("accepted")
    table.add_column("meaning")
    for name, info in Settings.model_fields.items():
        table.add_row(name.upper(), default_of(info) or "-", accepted(info), info.description)
    Console().print(table, markup=False)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from broker.demo.run import main as run

    _fill_in_running(args)
    return run(args)


def _bench(args: argparse.Namespace) -> int:
    from broker.bench.run import main as run

    return run(args)


def _doctor(args: argparse.Namespace) -> int:
    from broker.doctor.run import main as run

    return run(args, _of_running())


def _of_running() -> Settings:
    """Return the settings; what they leave open, as the `up` that runs on the data directory has it."""
    from broker.servers.process import kept_secret
    from broker.servers.running import read_running
    from broker.supervisor.plan import PEPPER_FILE, secrets_keys

    given = load()
    data_dir = Path(given.data_dir)
    found = read_running(data_dir)
    if found is None:
        return load(needs=STORES)
    return load(
        redis_url=given.redis_url or found.redis_url,
        database_url=given.database_url or found.database_url,
        agent_api_key=given.agent_api_key or found.api_key,
        key_pepper=given.key_pepper or kept_secret(data_dir / PEPPER_FILE),
        secrets_key=secrets_keys(given, data_dir),
    )


def _fill_in_running(args: argparse.Namespace) -> None:
    """Take address and key of the `up` that runs on the data directory, where neither says otherwise."""
    from broker.servers.running import read_running

    found = read_running(Path(load().data_dir))
    if args.key or found is None or os.environ.get("AGENT_API_KEY"):
        return
    args.key, args.url = found.api_key, found.api_url


if __name__ == "__main__":
    sys.exit(main())
