"""One pipelined connection to one Redis server, on hiredis: few, large commands, replies in their order.

Commands of one loop turn leave in one write, and a reply reaches its callback without a task or a turn of the
loop in between.

Invariants: replies are handled in the order Redis gave them; after the first failure the connection is closed
for good, and what was under way has an unknown outcome.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import parse_url

from broker.streams.calls import Argument, Connection, OnReply, Reply
from broker.streams.replies import as_broker_error
from broker.streams.slots import Address
from broker.telemetry import metrics
from schema.errors import BrokerError, StreamsUnavailable

CONNECT_TIMEOUT_S: Final = 3.0
SILENCE_MS_MAX: Final = 7_000
"""No byte for this long while a reply is owed: the peer is gone. Longer than any BLOCK we use (2 s)."""
WATCH_S: Final = 1.0
"""How often silence is looked for."""
_NOTHING: Final = object()
_OPEN: Final = metrics.REDIS_CONNECTIONS.child()


class NodeConnection(Connection, asyncio.Protocol):
    """A connection that is open until it fails or is closed. Make it with `open_node`."""

    def __init__(self) -> None:
        super().__init__()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[OnReply] = deque()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._heard = self._loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self._check_at_s = 0.0
        self._failure: BrokerError | None = None
        self.is_clustered = False
        """Whether the server is a node of a cluster."""
        self.closed = self._loop.create_future()
        """Resolves to the error that ended the connection (None: it was closed on purpose)."""

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
        _OPEN.inc()
        self._watch_on()

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
        _OPEN.inc(-1)
        self._end(StreamsUnavailable(f"connection to Redis lost: {exc or 'closed by the server'}"))

    # --- inside -------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._transport is not None and self._unsent:
            data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent.clear()
            try:
                self._transport.write(data)
            except RuntimeError as error:
                # uvloop's word for a socket that broke as soon as it was connected; it may say no other.
                self._end(StreamsUnavailable(f"connection to Redis lost: {error}"))

    def _watch_on(self) -> None:
        self._check_at_s = self._loop.time() + WATCH_S
        self._watch = self._loop.call_at(self._check_at_s, self._check_silence)

    def _check_silence(self) -> None:
        # While this process stood still it heard nothing, whatever Redis said: that is read after this.
        self._heard += self._loop.time() - self._check_at_s
        if self._waiting and (self._loop.time() - self._heard) * 1000 > SILENCE_MS_MAX:
            self._end(StreamsUnavailable(f"Redis did not answer within {SILENCE_MS_MAX} ms"))
        elif self._failure is None:
            self._watch_on()

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


async def open_node(url: str, *, name: str, at: Address | None = None) -> NodeConnection:
    """Open a connection, authenticate, choose the database and tell the server our name.

    `url`: redis://, rediss:// or unix://, as redis-py understands them. `at`: another node of the same
    cluster, with the same credentials.

    Raises: StreamsUnavailable.
    """
    options = options_of(url)
    if at is not None:
        options = {**options, "path": None, "host": at.host, "port": at.port}
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if path := options.get("path"):
                _, connection = await loop.create_unix_connection(NodeConnection, path)
            else:
                host, port = address_of(options)
                tls = _tls_context(options) if url.startswith("rediss:") else None
                _, connection = await loop.create_connection(NodeConnection, host, port, ssl=tls)
            await _greet(connection, options, name)
    except (OSError, TimeoutError) as error:
        raise StreamsUnavailable(f"cannot reach Redis: {str(error) or 'time-out'}") from error
    return connection


def options_of(url: str) -> dict[str, Any]:  # Any: as redis-py types it
    """Return what a URL says, in redis-py's words."""
    return dict(parse_url(url))


def address_of(options: Mapping[str, Any]) -> Address:
    """Return where the options of a URL point (a socket's: to this host)."""
    return Address(options.get("host") or "localhost", int(options.get("port") or 6379))


async def _greet(connection: NodeConnection, options: dict[str, Any], name: str) -> None:
    try:
        if password := options.get("password"):
            user = options.get("username")
            await connection.send("AUTH", *((user, password) if user else (password,)))
        if database := options.get("db"):
            await connection.send("SELECT", str(database))
        greeting: Reply = await connection.send("HELLO", 2, "SETNAME", name.replace(" ", "-"))
        connection.is_clustered = _mode(greeting) == b"cluster"
    except BaseException:
        await connection.close()
        raise


def _mode(greeting: Reply) -> bytes | None:
    """Return what a server says of itself: b"standalone", b"sentinel" or b"cluster"."""
    if not isinstance(greeting, list):
        return None
    told = dict(zip(greeting[::2], greeting[1::2], strict=False))
    mode: bytes | None = told.get(b"mode")
    return mode


def _tls_context(options: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    return context
