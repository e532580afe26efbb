"""The proxy as the driver sees it: which links there are, and telling it what is wrong with one."""

import json
import subprocess
from collections.abc import Mapping
from typing import Any, Self

from chaos.python import module, searching

Address = tuple[str, int]


class Links:
    """A running proxy. Use as a context."""

    def __init__(self, targets: Mapping[str, Address]) -> None:
        words = [{"name": name, "host": host, "port": port} for name, (host, port) in targets.items()]
        self._process = subprocess.Popen(
            module("proxy", json.dumps(words)),
            env=searching(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.ports: dict[str, int] = self._heard()

    @property
    def names(self) -> list[str]:
        return list(self.ports)

    def tell(self, link: str, **rule: Any) -> None:  # Any: JSON
        """Make something wrong with a link; nothing: it is well again."""
        self._say({"link": link, **rule})

    def figures(self) -> dict[str, dict[str, int]]:
        """Return how many connections and bytes each link has carried."""
        self._say({"figures": True})
        figures: dict[str, dict[str, int]] = self._heard()
        return figures

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _say(self, words: dict[str, Any]) -> None:  # Any: JSON
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()

    def _heard(self) -> Any:  # Any: JSON
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the proxy has ended"
        return json.loads(line)
