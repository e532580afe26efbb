"""Requests generated from the served OpenAPI document, sent to a whole broker with something in it.

schemathesis reads `/openapi.json`, sends valid, invalid and chained requests, and checks every reply: no 5xx,
no status, content type, header or body that is not documented, keys asked for wherever the document says so,
nothing there any more once it was deleted. Not covered: operations that stream; a reply without an end is no
case for it, they have tests of their own.

Run by hand: make fuzz
"""

import argparse
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

if __name__ == "__main__":  # pytest finds the modules of the tests by itself
    sys.path.insert(0, str(Path(__file__).parents[1]))

from whole_broker import WholeBroker, environment

CONFIG = Path(__file__).with_name("contract.toml")
HOOKS = Path(__file__).with_name("contract_hooks.py")
STREAMS = "text/event-stream"
SHORT = {"RETRY_TIME_SCALE": "0.002", "VALKEY_MAXMEMORY_MB": "256", "LOG_LEVEL": "warning"}


class World:
    """What the generated requests find, and who sends them."""

    def __init__(self, url: str, operator_key: str) -> None:
        self.url = url
        self.operator_key = operator_key
        self.agent_key = ""
        self.names: list[str] = []

    def populate(self) -> None:
        """Register a few agents and send messages between them."""
        with httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.operator_key}"}, trust_env=False
        ) as http:
            for name in ("ana", "ben", "cleo"):
                made = http.post("/api/agents", json={"name": name, "capabilities": ["scrape"]})
                assert made.status_code in (201, 409), made.text
                self.agent_key = self.agent_key or made.json().get("api_key", "")
                self.names.append(name)
            order = {"to_agent_id": "ben", "title": "a hole"}
            ordered = http.post("/api/v1/messaging/work-order", params={"from_agent_id": "ana"}, json=order)
            assert ordered.status_code == 201, ordered.text
            for sender, recipient in (("ana", "ben"), ("ben", "ana"), ("cleo", "ana")):
                sent = http.post("/api/messages", json={"from_agent_id": sender, "to_agent_id": recipient})
                assert sent.status_code == 201, sent.text


def streaming_operations(url: str) -> list[str]:
    """Return the operations whose replies have no end."""
    document = httpx.get(f"{url}/openapi.json", trust_env=False).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    return [one["operationId"] for one in operations if STREAMS in _media_types(one)]


def _media_types(operation: Any) -> set[str]:  # a part of an OpenAPI document
    return {kind for reply in operation["responses"].values() for kind in reply.get("content", {})}


def send_generated(world: World, key: str, options: Sequence[str], *, timeout_s: float) -> tuple[int, str]:
    """Run schemathesis against the world; return its exit code and what it printed."""
    excluded = [f"--exclude-operation-id={name}" for name in streaming_operations(world.url)]
    with tempfile.TemporaryDirectory() as scratch:  # it leaves files where it runs
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"),
                f"{world.url}/openapi.json",
                *("--header", f"Authorization: Bearer {key}"),
                *("--no-color", "--warnings", "off", "--suppress-health-check", "all"),
                *excluded,
                *options,
            ],
            cwd=scratch,
            env=environment(SCHEMATHESIS_HOOKS=str(HOOKS)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    return done.returncode, done.stdout


def main() -> int:
    """Send generated requests for some minutes, from a seed that is printed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    arguments.add_argument("--keep", type=Path, help="leave the broker's data and log in this directory")
    given = arguments.parse_args()
    print(f"seed {given.seed}, {given.minutes} minutes", flush=True)
    with tempfile.TemporaryDirectory() as home:
        broker = WholeBroker(given.keep or Path(home), port=free_port(), **SHORT)
        broker.start()
        try:
            world = World(broker.running.api_url, broker.running.api_key)
            world.populate()
            seconds = int(given.minutes * 60)
            options = ("--seed", str(given.seed), "--max-time", str(seconds), "--continue-on-failure")
            code, said = send_generated(world, world.operator_key, options, timeout_s=seconds * 3 + 600)
        finally:
            broker.stop()
    print(said)
    return code


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
