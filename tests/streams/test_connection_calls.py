"""The connection: replies in order, errors in our words, every callback exactly once."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from cluster import one_server
from redis_proxy import proxied
from streams_rig import until

from broker.servers.process import ServerFailed
from broker.servers.valkey import EmbeddedValkey
from broker.streams import node as connection_module
from broker.streams.connection import Connection, open_connection
from broker.streams.scripts import LEASE, SETTLE
from schema.errors import BrokerError, Fenced, StreamsUnavailable

pytestmark = one_server


async def test_replies_come_in_the_order_of_the_commands(connection):
    replies: list[tuple[int, object]] = []
    done = asyncio.Event()
    for number in range(5_000):
        connection.call(("ECHO", number), lambda reply, number=number: replies.append((number, reply)))
    connection.call(("PING",), lambda _: done.set())
    await done.wait()
    assert replies == [(number, b"%d" % number) for number in range(5_000)]


async def test_commands_of_one_turn_leave_in_one_write(connection, monkeypatch):
    writes = []
    transport = connection._transport
    monkeypatch.setattr(connection, "_transport", Recording(transport, writes))
    await connection.send_many([("PING",)] * 50)
    assert len(writes) == 1


class Recording:
    def __init__(self, transport, writes):
        self._transport, self._writes = transport, writes

    def write(self, data):
        self._writes.append(data)
        self._transport.write(data)

    def abort(self):
        self._transport.abort()


class Broken(Recording):
    """What uvloop's transport is after a connection was reset in the moment it was made."""

    def write(self, data):
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")


async def test_a_call_over_a_transport_that_broke_without_a_word_gets_its_error(connection, monkeypatch):
    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    monkeypatch.setattr(connection, "_transport", Broken(connection._transport, []))
    with pytest.raises(StreamsUnavailable):
        await connection.send("PING")
    assert not connection.is_open
    assert faults == []


async def test_a_call_made_in_a_callback_is_answered(connection):
    answered = asyncio.get_running_loop().create_future()
    connection.call(("ECHO", "a"), lambda _: connection.call(("ECHO", "b"), answered.set_result))
    assert await answered == b"b"


@pytest.mark.parametrize("value", [b"", b"\x00\xff\r\n", b"x" * 3_000_000, "ünïcödé", 2**63])
async def test_arguments_arrive_byte_for_byte(connection, value):
    expected = value if isinstance(value, bytes) else str(value).encode()
    assert await connection.send("ECHO", value) == expected


ERRORS = [
    ("FENCED settle", Fenced, "fenced"),
    ("OOM command not allowed", BrokerError, "streams_full"),
    ("LOADING Redis is loading", StreamsUnavailable, "streams_unavailable"),
    ("READONLY You can't write", StreamsUnavailable, "streams_unavailable"),
    ("BUSY Redis is busy", StreamsUnavailable, "streams_unavailable"),
    ("MISCONF Errors writing to the AOF", StreamsUnavailable, "streams_unavailable"),
    ("MASTERDOWN Link with MASTER is down", StreamsUnavailable, "streams_unavailable"),
    ("WRONGTYPE Operation", BrokerError, "streams_fault"),
    ("ERR no such thing", BrokerError, "streams_fault"),
]


@pytest.mark.parametrize(("text", "kind", "code"), ERRORS)
async def test_errors_come_in_our_words_and_the_connection_lives_on(connection, text, kind, code):
    with pytest.raises(kind) as caught:
        await connection.send("EVAL", f'return redis.error_reply("{text}")', 0)
    assert caught.value.code == code
    assert await connection.send("PING") == b"PONG"


async def test_send_many_answers_all_and_raises_the_first_error(connection, raw):
    raw.set("text", "x")
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await connection.send_many([("SET", "a", "1"), ("XLEN", "text"), ("SET", "b", "2"), ("NONSENSE",)])
    assert (raw.get("a"), raw.get("b")) == (b"1", b"2")


async def test_scripts_are_loaded_again_after_the_server_forgot_them(connection, raw):
    raw.set("owner", "1:x")
    for _ in range(2):
        assert await connection.evaluate(LEASE, ("owner", "fence"), "renew", "1:x", 10_000) == 1
        raw.script_flush()


async def test_many_scripts_under_way_survive_a_flush_in_their_order(connection, raw):
    raw.set("ab:{0}:owner:deliver", "1:x")
    raw.script_flush()
    replies = []
    keys = [f"ab:{{0}}:{name}" for name in ("owner:deliver", "ledger", "due", "expiry", "direct")]
    for number in range(20):
        connection.run(SETTLE, keys, ("1:x", f"[{number}]", 0, 0, 0, 0), replies.append)
    await until(lambda: len(replies) == 20)
    assert replies == [0] * 20
    assert [fields[b"b"] for _, fields in raw.xrange("ab:{0}:ledger")] == [b"[%d]" % n for n in range(20)]


# --- failures -------------------------------------------------------------------------------------------


async def test_a_server_killed_in_mid_flight_answers_every_callback_exactly_once(tmp_path: Path):
    server = EmbeddedValkey(tmp_path, maxmemory_bytes=64 * 1024**2)
    server.start()
    try:
        opened = await open_connection(server.url, name="test")
        outcomes: dict[int, list[object]] = {number: [] for number in range(300)}
        await opened.send("CLIENT", "PAUSE", "60000", "ALL")
        for number in range(300):
            opened.call(("PING",), outcomes[number].append)
        await asyncio.sleep(0)  # a turn, in which they are written
        os.kill(server.pid, signal.SIGKILL)
        failure = await asyncio.wait_for(opened.closed, 10)
    finally:
        with suppress(ServerFailed):  # it says that it did not end of its own accord
            server.stop()
    assert isinstance(failure, StreamsUnavailable)
    assert not opened.is_open
    late: list[object] = []
    opened.call(("PING",), late.append)
    await until(lambda: len(late) == 1)
    for got in (*outcomes.values(), late):
        assert len(got) == 1
        assert isinstance(got[0], StreamsUnavailable)
    with pytest.raises(StreamsUnavailable):
        await opened.send("PING")


async def test_closing_answers_what_is_under_way(any_streams_url):
    opened = await open_connection(any_streams_url, name="test")
    waiting = asyncio.ensure_future(opened.send("XREAD", "BLOCK", "5000", "STREAMS", "none", "$"))
    await asyncio.sleep(0.02)
    await opened.close()
    with pytest.raises(StreamsUnavailable):
        await waiting
    assert await opened.closed is None


async def test_a_callback_that_fails_takes_none_of_the_others_with_it(any_streams_url):
    """A bug in one callback ends the connection; the others still hear of it."""
    opened = await open_connection(any_streams_url, name="test")
    heard: list[object] = []
    noted = asyncio.get_running_loop()
    trouble: list[object] = []
    noted.set_exception_handler(lambda _, context: trouble.append(context))

    def fail(_: object) -> None:
        raise ValueError("a bug")

    opened.call(("PING",), fail)
    opened.call(("XREAD", "BLOCK", "5000", "STREAMS", "none", "$"), heard.append)
    opened.call(("PING",), fail)
    opened.call(("PING",), heard.append)
    await asyncio.wait_for(opened.closed, 5)
    await until(lambda: len(heard) == 2)
    assert all(isinstance(one, StreamsUnavailable) for one in heard)
    assert trouble


async def test_a_silent_server_is_given_up(monkeypatch):
    """A peer that vanished without a word: no reset, no reply, only silence."""
    monkeypatch.setattr(connection_module, "SILENCE_MS_MAX", 300)

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"test\r\n")
        writer.write(b"+OK\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        opened = await open_connection(f"redis://127.0.0.1:{port}/0", name="test")
        outcomes: list[object] = []
        opened.call(("PING",), outcomes.append)
        failure = await asyncio.wait_for(opened.closed, 5)
        assert isinstance(failure, StreamsUnavailable)
        assert outcomes == [failure]
        await opened.close()


async def test_a_process_that_stood_still_itself_does_not_take_that_for_silence(any_streams_url, monkeypatch):
    """A machine may be stopped for seconds: leases outlast that, and so do connections."""
    monkeypatch.setattr(connection_module, "WATCH_S", 0.5)
    monkeypatch.setattr(connection_module, "SILENCE_MS_MAX", 1_500)
    async with await open_connection(any_streams_url, name="test") as opened:
        answer = asyncio.ensure_future(opened.send("PING"))
        await asyncio.sleep(0)
        time.sleep(2)  # noqa: ASYNC251  # which is what is meant
        await asyncio.sleep(
            0.01
        )  # A look that was due long ago comes now; what Redis does later is not meant.
        monkeypatch.undo()
        assert await answer == b"PONG"


async def test_an_idle_connection_is_not_taken_for_a_dead_one(any_streams_url, monkeypatch):
    monkeypatch.setattr(connection_module, "SILENCE_MS_MAX", 100)
    async with await open_connection(any_streams_url, name="test") as opened:
        await asyncio.sleep(1.2)  # longer than the watch's own interval
        monkeypatch.undo()  # An answer may take its time: the machine's others want it too.
        assert await opened.send("PING") == b"PONG"


async def test_nonsense_from_the_server_ends_the_connection():
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"test\r\n")
        writer.write(b"+OK\r\n")
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        opened = await open_connection(f"redis://127.0.0.1:{port}/0", name="test")
        with pytest.raises(StreamsUnavailable):
            await opened.send("PING")
        await opened.close()


async def test_a_cancelled_send_does_not_disturb_later_replies(any_streams_url):
    """The classic bug of pipelined clients: the reply of a cancelled command given to the next one."""
    async with proxied(any_streams_url) as proxy, await open_connection(proxy.url, name="test") as opened:
        proxy.hold_replies()
        given_up = asyncio.ensure_future(opened.send("ECHO", "given up"))
        kept = asyncio.ensure_future(opened.send("ECHO", "kept"))
        await until(lambda: b"kept" in proxy.asked)
        given_up.cancel()
        later = asyncio.ensure_future(opened.send("ECHO", "later"))
        proxy.let_go()
        assert (await kept, await later) == (b"kept", b"later")
        assert given_up.cancelled()


async def test_a_cut_connection_says_so(any_streams_url):
    async with proxied(any_streams_url) as proxy:
        opened = await open_connection(proxy.url, name="test")
        proxy.hold_replies()
        waiting = asyncio.ensure_future(opened.send("PING"))
        await until(lambda: b"PING" in proxy.asked)
        proxy.cut()
        with pytest.raises(StreamsUnavailable):
            await waiting


async def test_nobody_listening_is_unavailable(unused_tcp_port):
    with pytest.raises(StreamsUnavailable):
        await open_connection(f"redis://127.0.0.1:{unused_tcp_port}/0", name="test")


async def test_a_server_that_accepts_and_never_greets_is_unavailable(monkeypatch):
    monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT_S", 0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StreamsUnavailable):
            await open_connection(f"redis://127.0.0.1:{port}/0", name="test")


# --- doors ----------------------------------------------------------------------------------------------


async def test_the_database_of_the_url_is_chosen_and_the_name_told(any_streams_url, raw):
    async with await open_connection(any_streams_url.rsplit("/", 1)[0] + "/3", name="my name") as opened:
        await opened.send("SET", "here", "1")
        assert await opened.send("CLIENT", "GETNAME") == b"my-name"
    with redis.Redis.from_url(any_streams_url.rsplit("/", 1)[0] + "/3") as other:
        assert other.get("here") == b"1"
    assert raw.get("here") is None


async def test_a_password_is_given(any_streams_url, raw):
    raw.execute_command("ACL", "SETUSER", "ab", "on", ">open:sesame", "~*", "+@all")
    place = any_streams_url.split("//")[1].rpartition("@")[2]
    try:
        async with await open_connection(f"redis://ab:open%3Asesame@{place}", name="test") as opened:
            assert await opened.send("ACL", "WHOAMI") == b"ab"
        with pytest.raises(BrokerError):
            await open_connection(f"redis://ab:wrong@{place}", name="test")
    finally:
        raw.execute_command("ACL", "DELUSER", "ab")


async def test_a_unix_socket_works_too(any_streams_url, tmp_path):
    parts = urlsplit(any_streams_url)
    login = parts.netloc.rpartition("@")[0]

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(reader, up_writer))
                group.create_task(pump(up_reader, writer))
        finally:
            writer.transport.abort()
            up_writer.transport.abort()

    server = await asyncio.start_unix_server(serve, tmp_path / "redis.sock")
    async with (
        server,
        await open_connection(f"unix://{login}@{tmp_path}/redis.sock?db=2", name="test") as opened,
    ):
        assert await opened.send("PING") == b"PONG"
        opened: Connection
        assert b"db=2" in await opened.send("CLIENT", "INFO")
    await server.wait_closed()
