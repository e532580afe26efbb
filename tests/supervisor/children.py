"""Tiny real processes for the tests of the supervisor. Each tells what it does in files of one directory.

`python children.py <behaviour> <directory> <name>`; the name is the last word, by which it is recognised.
"""

import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from broker.supervisor import lifeline


def main(behaviour: str, directory: Path, name: str) -> None:
    lifeline.follow(os.environ, patience_s=5)
    BEHAVIOURS[behaviour](directory, name)


def note_start(directory: Path, name: str) -> None:
    """Note our process id, once we behave as we should."""
    with (directory / f"{name}.starts").open("a") as sink:
        sink.write(f"{os.getpid()}\n")


def obey(directory: Path, name: str) -> None:
    """End cleanly at SIGTERM, noting the order of the ends."""

    def end(*_: object) -> None:
        with (directory / "ends").open("a") as sink:
            sink.write(f"{name}\n")
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    note_start(directory, name)
    while True:
        signal.pause()


def refuse(directory: Path, name: str) -> None:
    """Ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note_start(directory, name)
    while True:
        time.sleep(1)


def die(directory: Path, name: str) -> None:
    note_start(directory, name)
    sys.exit(7)


def misconfigured(directory: Path, name: str) -> None:
    sys.exit(2)


def gateway(directory: Path, name: str) -> None:
    """Answer /readyz on PORT; end cleanly at SIGTERM."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    def end(*_: object) -> None:
        with (directory / "ends").open("a") as sink:
            sink.write(f"{name}\n")
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    note_start(directory, name)
    HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Ready).serve_forever()


BEHAVIOURS = {"obey": obey, "refuse": refuse, "die": die, "misconfigured": misconfigured, "gateway": gateway}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
