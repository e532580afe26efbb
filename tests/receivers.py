"""Agents' endpoints: one real HTTP server in the test, a path and a script per agent.

Every request is noted before its script answers, its signature judged by the public `standardwebhooks`.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import msgspec
from standardwebhooks import Webhook, WebhookVerificationError

NO_CONTENT = 204
DROP = -1
"""A status that is no answer: the connection ends in the middle of one. (Where it ends before any, on a
connection that was used before, the broker may send the request again within the same attempt.)"""


class Answer(NamedTuple):
    """`body` None: an empty object."""

    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    body: Any = None


class Received(NamedTuple):
    """One request. `nth` counts those with the same id; `at_s` is monotonic, `at` the time of day."""

    id: str
    nth: int
    attempt: int
    agent: str
    verified: bool
    message: dict[str, Any]
    body: bytes
    at_s: float
    at: float
    headers: Mapping[str, str] = MappingProxyType({})


Script = Callable[[Received], Answer | Awaitable[Answer]]


def ok(_: Received) -> Answer:
    return Answer()


def in_turn(*answers: int | Answer) -> Script:
    """Answer the nth request for a message with the nth of these; the last one stays."""

    def script(request: Received) -> Answer:
        answer = answers[min(request.nth, len(answers)) - 1]
        return answer if isinstance(answer, Answer) else Answer(answer)

    return script


class Gate:
    """A script that holds requests open while it is shut. `held` are those that wait now."""

    def __init__(self) -> None:
        self.held: list[Received] = []
        self._open = asyncio.Event()

    async def __call__(self, request: Received) -> Answer:
        if not self._open.is_set():
            self.held.append(request)
            await self._open.wait()
        return Answer()

    def open(self) -> None:
        """Let through what is held, and what comes."""
        self.held.clear()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()


class Receivers:
    """The server. Use as an async context."""

    def __init__(self, note: Callable[[Received], None]) -> None:
        self._note = note
        self._scripts: dict[str, Script] = {}
        self._secrets: dict[str, Webhook] = {}
        self._trusted: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._counts: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def endpoint(self, agent: str, script: Script) -> str:
        """Return the URL of an agent's endpoint."""
        assert self._server is not None
        self._scripts[agent] = script
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/{agent}"

    def trust(self, agent: str, secret: str) -> None:
        """Note the secret an agent was given when it registered."""
        self._secrets[agent] = Webhook(secret)
        self._trusted[agent].set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # A broker that is killed in the middle cuts requests and connections off. A cancelled handler
            # returns, because asyncio's streams log one that ends as cancelled.
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request; False when the connection is to end."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request_line, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        agent = request_line.split(" ")[1].removeprefix("/").partition("?")[0]
        # Its secret is in the reply to its registration, which what waited for the agent may overtake.
        await self._trusted[agent].wait()
        request = self._received(agent, headers, body)
        self._note(request)
        answer = self._scripts[agent](request)
        if not isinstance(answer, Answer):
            answer = await answer
        if answer.status == DROP:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            return False
        if writer.is_closing():  # uvloop takes it amiss.
            return False
        writer.write(_encoded(answer))
        await writer.drain()
        return True

    def _received(self, agent: str, headers: dict[str, str], body: bytes) -> Received:
        message_id = headers["webhook-id"]
        self._counts[message_id] = nth = self._counts.get(message_id, 0) + 1
        return Received(
            id=message_id,
            nth=nth,
            attempt=int(headers["x-attempt"]),
            agent=agent,
            verified=self._is_signed(agent, headers, body),
            message=msgspec.json.decode(body),
            body=body,
            at_s=time.monotonic(),
            at=time.time(),
            headers=headers,
        )

    def _is_signed(self, agent: str, headers: dict[str, str], body: bytes) -> bool:
        try:
            self._secrets[agent].verify(body, headers, json_parse=False)
        except WebhookVerificationError:
            return False
        return True


def _encoded(answer: Answer) -> bytes:
    body = b"" if answer.status == NO_CONTENT else msgspec.json.encode(answer.body or {})
    lines = [f"HTTP/1.1 {answer.status} Scripted"]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
