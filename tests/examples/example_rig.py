"""What the examples' tests share: agents at work, and web servers for them to speak to."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from broker.client import Agent

Answer = tuple[int, dict[str, str], bytes]
Site = Callable[[str, bytes], Answer]
"""From path and body of a request to status, headers and body of the answer."""


@asynccontextmanager
async def at_work(agent: Agent) -> AsyncIterator[Agent]:
    """Run an agent while the context is open."""
    async with agent:
        serving = asyncio.create_task(agent.serve())
        try:
            yield agent
        finally:
            agent.stop()
            await serving


@contextmanager
def serving(site: Site) -> Iterator[str]:
    """Serve a site on a free port while the context is open; gives its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def as_json(value: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = site(self.path, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815  # http.server wants these names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
