"""Where the broker is and who asks: from the arguments, the environment, or a local `up`."""

import argparse
import os
from pathlib import Path
from typing import Final

from broker.client.plain import Client
from broker.servers.running import read_running
from broker.settings import load

URL: Final = "AGENT_BROKER_URL"
KEY: Final = "AGENT_API_KEY"
AGENT: Final = "AGENT_BROKER_AGENT"
URL_DEFAULT: Final = "http://127.0.0.1:8080"
TIMEOUT_S: Final = 30.0


class NoKey(Exception):
    """Nobody said who asks."""


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments every command has."""
    group = parser.add_argument_group("connection")
    group.add_argument("--url", help=f"the broker's address ({URL}; else a local `up`, else {URL_DEFAULT})")
    group.add_argument("--key", help=f"an agent's key or the operator's ({KEY}; else that of a local `up`)")
    group.add_argument("--agent", help=f"as which agent an operator's key acts, by name or id ({AGENT})")
    group.add_argument("--json", action="store_true", help="for programs: a JSON document, or one a line")


def connect(args: argparse.Namespace) -> Client:
    """Return the client. Raises: NoKey."""
    url, key = args.url or os.environ.get(URL), args.key or os.environ.get(KEY)
    if url is None or key is None:
        running = read_running(Path(load().data_dir))
        if running is not None:
            url, key = url or running.api_url, key or running.api_key
    if key is None:
        raise NoKey(f"no key: give --key, set {KEY}, or run this where `agent-broker up` runs")
    agent = args.agent or os.environ.get(AGENT)
    return Client(url or URL_DEFAULT, key, agent_id=agent, timeout_s=TIMEOUT_S)
