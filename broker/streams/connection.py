"""One pipelined connection to Redis, on hiredis: few, large commands, replies in the order of the commands.

The hot path speaks to Redis only through this: `call` hands over a command and a callback that runs as soon
as the reply is parsed, without a task or a turn of the loop in between. Commands of one loop turn leave in
one write. Everything else (set-up, administration, clusters) uses redis-py.

Invariants: every callback runs exactly once, with a reply or with an exception; after the first failure the
connection is closed for good, and what was under way has an unknown outcome. A connection never repeats a
command by itself (a repeated write is the caller's decision, because only the caller deduplicates); the one
exception is `NOSCRIPT`, where the command is known not to have run.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Self, cast

import hiredis
from redis.asyncio.connection import parse_url

from broker.streams.replies import as_broker_error
from broker.streams.scripts import Script
from schema.errors import BrokerError, StreamsUnavailable

# Replies are whatever Redis sends: nested lists of bytes and ints. Typing them is the caller's business.
Reply = Any
OnReply = Callable[[Reply], None]
Argument = str | bytes | int

CONNECT_TIMEOUT_S: Final = 3.0
SILENCE_MS_MAX: Final = 7_000
"""No byte for this long while a reply is owed: the peer is gone. Longer than any BLOCK we use (2 s)."""
_NOTHING: Final = object()


class Connection(asyncio.Protocol):
    """A connection that is open until it fails or is closed. Make it with `open_connection`."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[OnReply] = deque()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self._failure: BrokerError | None = None
        self.closed = self._loop.create_future()
        """Resolves to the error that ended the connection (None: it was closed on purpose)."""

    # --- commands -----------------------------------------------------------------------------------

    def call(self, arguments: Sequence[Argument], on_reply: OnReply) -> None:
        """Send a command; `on_reply` gets its reply, or the BrokerError in place of one."""
        if self._failure is not None:
            self._loop.call_soon(on_reply, self._failure)
            return
        if not self._unsent:
            self._loop.call_soon(self._flush)
        if not self._waiting:
            self._heard = self._loop.time()
        packed = hiredis.pack_command(tuple(arguments))  # type: ignore[arg-type]  # stub knows 1-tuples only
        self._unsent.append(packed)
        self._waiting.append(on_reply)

    def run(
        self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], on_reply: OnReply
    ) -> None:
        """Run a script by its digest, loading it first where the server does not know it."""

        def answered(reply: Reply) -> None:
            if isinstance(reply, BrokerError) and reply.message.startswith("NOSCRIPT"):
                self.call(("EVAL", script.text, len(keys), *keys, *arguments), on_reply)
            else:
                on_reply(reply)

        self.call(("EVALSHA", script.digest, len(keys), *keys, *arguments), answered)

    async def send(self, *arguments: Argument) -> Reply:
        """Send a command and wait for its reply.

        Raises: BrokerError as Redis or the connection failed.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        self.call(arguments, _resolver(future))
        return await future

    async def evaluate(self, script: Script, keys: Sequence[Argument], *arguments: Argument) -> Reply:
        """Run a script and wait for its reply. Raises: BrokerError."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self.run(script, keys, arguments, _resolver(future))
        return await future

    async def send_many(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Send commands in one write and wait for all replies. Raises: the first BrokerError among them."""
        futures: list[asyncio.Future[Reply]] = []
        for arguments in commands:
            future: asyncio.Future[Reply] = self._loop.create_future()
            self.call(arguments, _resolver(future))
            futures.append(future)
        results = await asyncio.gather(*futures, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    @property
    def is_open(self) -> bool:
        return self._failure is None

    async def close(self) -> None:
        """Close; what is still under way gets StreamsUnavailable."""
        self._end(None)
        await asyncio.sleep(0)

    # --- asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # cast: uvloop's transports have the interface but not the base class.
        self._transport = cast(asyncio.Transport, transport)
        self._watch = self._loop.call_later(1.0, self._check_silence)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                if isinstance(reply, hiredis.ReplyError):
                    reply = as_broker_error(str(reply))
                waiting.popleft()(reply)
        except hiredis.ProtocolError as error:
            self._end(StreamsUnavailable(f"Redis sent something that is not its protocol: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(StreamsUnavailable(f"connection to Redis lost: {exc or 'closed by the server'}"))

    # --- inside -------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._transport is not None and self._unsent:
            data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent.clear()
            self._transport.write(data)

    def _check_silence(self) -> None:
        if self._waiting and (self._loop.time() - self._heard) * 1000 > SILENCE_MS_MAX:
            self._end(StreamsUnavailable(f"Redis did not answer within {SILENCE_MS_MAX} ms"))
        elif self._failure is None:
            self._watch = self._loop.call_later(1.0, self._check_silence)

    def _end(self, error: BrokerError | None) -> None:
        if self._failure is not None:
            return
        self._failure = error or StreamsUnavailable("connection to Redis closed")
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        if not self.closed.done():
            self.closed.set_result(error)
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            try:
                on_reply(self._failure)
            except Exception as bug:  # in one callback; the others are owed their answer all the same
                self._loop.call_exception_handler({"message": "a Redis callback failed", "exception": bug})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def open_connection(url: str, *, name: str) -> Connection:
    """Open a connection, authenticate, choose the database and tell the server our name.

    `url`: redis://, rediss:// or unix://, as redis-py understands them.

    Raises: StreamsUnavailable.
    """
    options: dict[str, Any] = dict(parse_url(url))  # Any: as redis-py types it
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if path := options.get("path"):
                _, connection = await loop.create_unix_connection(Connection, path)
            else:
                host, port = options.get("host", "localhost"), int(options.get("port", 6379))
                tls = _tls_context(options) if url.startswith("rediss:") else None
                _, connection = await loop.create_connection(Connection, host, port, ssl=tls)
            await _greet(connection, options, name)
    except (OSError, TimeoutError) as error:
        raise StreamsUnavailable(f"cannot reach Redis: {str(error) or 'time-out'}") from error
    return connection


async def _greet(connection: Connection, options: dict[str, Any], name: str) -> None:
    try:
        if password := options.get("password"):
            user = options.get("username")
            await connection.send("AUTH", *((user, password) if user else (password,)))
        if database := options.get("db"):
            await connection.send("SELECT", str(database))
        await connection.send("CLIENT", "SETNAME", name.replace(" ", "-"))
    except BaseException:
        await connection.close()
        raise


def _tls_context(options: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    return context


def _resolver(future: asyncio.Future[Reply]) -> OnReply:
    def resolve(reply: Reply) -> None:
        if future.done():
            return
        if isinstance(reply, BrokerError):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    return resolve
