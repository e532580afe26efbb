"""How a command runs: its client, and an exit code for however it ends.

0 done; 1 the broker refused (its sentence and code on stderr); 2 wrong arguments; 3 it cannot be reached or
cannot do its work. Ctrl-C and a reader that stops reading end it quietly.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from broker.client.plain import Client
from broker.commands.connection import NoKey, add_connection, connect
from schema.errors import BrokerError, Unavailable

OK: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
INTERRUPTED: Final = 130

Command = Callable[[Client, argparse.Namespace], None]


class Misuse(Exception):
    """The arguments make no sense together."""


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, do: Command, *, help: str
) -> argparse.ArgumentParser:
    """Add a command of a group of commands, and return it for its own arguments."""
    return set_command(commands.add_parser(name, help=help, description=help), do)


def add_group(parser: argparse.ArgumentParser) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    """Make a parser a group of commands."""
    return parser.add_subparsers(required=True, metavar="command")


def set_command(parser: argparse.ArgumentParser, do: Command) -> argparse.ArgumentParser:
    """Let a parser's arguments run a command."""
    add_connection(parser)

    def command(args: argparse.Namespace) -> int:
        return run(do, args)

    parser.set_defaults(command=command)
    return parser


def run(do: Command, args: argparse.Namespace) -> int:
    """Run a command and return its exit code."""
    try:
        with connect(args) as client:
            do(client, args)
        sys.stdout.flush()
    except (NoKey, Misuse) as error:
        return _say(str(error), USAGE)
    except Unavailable as error:
        return _say(_sentence(error), UNAVAILABLE)
    except BrokerError as error:
        return _say(_sentence(error), REFUSED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough. Nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def words_of(text: Sequence[str] | None) -> list[str]:
    """Return words that were given one by one, or several at once with commas in between."""
    return [word.strip() for part in text or () for word in part.split(",") if word.strip()]


def _sentence(error: BrokerError) -> str:
    faults = [f"{fault.field}: {fault.message}" for fault in error.faults]
    return f"{error.message} ({error.code})" + "".join(f"\n  {fault}" for fault in faults)


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"agent-broker: {sentence}\n")
    return code
