"""The traps of Redis and its clients that cost others their messages: each shown not to be ours.

What is forbidden everywhere is looked for in the sources, because no run shows that something never happens.
"""

import ast
import asyncio
import re
from pathlib import Path

import pytest
from cluster import one_server
from redis_proxy import proxied
from streams_rig import until

import broker
import schema
import workers
from broker.streams import node as node_module
from broker.streams.connection import open_connection
from broker.streams.link import Link
from broker.telemetry import metrics
from schema.errors import StreamsUnavailable

SOURCES = [
    path
    for package in (broker, schema, workers)
    for path in Path(str(package.__file__)).parent.rglob("*")
    if path.suffix in (".py", ".lua")
]
"""Of the product. The bench is part of it; what tests do to their own servers is their affair."""


def uses(pattern: str) -> set[tuple[str, str]]:
    """Return (file, line) of every use in the product's code; comments and docstrings say what they like."""
    found = set()
    for path in SOURCES:
        text = path.read_text()
        lines = _python_strings(text) if path.suffix == ".py" else _lua_code(text)
        found |= {(path.name, line.strip()) for line in lines if re.search(pattern, line)}
    return found


def _python_strings(text: str) -> list[str]:
    """Return the lines that hold a string that is no docstring."""
    tree = ast.parse(text)
    alone = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    numbers = {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
    }
    lines = text.splitlines()
    return [lines[number - 1] for number in sorted(numbers)]


def _lua_code(text: str) -> list[str]:
    return [line.partition("--")[0] for line in text.splitlines()]


# --- nothing is trimmed -----------------------------------------------------------------------------------


def test_nothing_that_is_work_is_ever_trimmed() -> None:
    """`MAXLEN` destroys what is pending, and what was never delivered, without a trace. Only hints are capped
    (doorbell, registry), and only the ledger is cut, up to what is committed.
    """
    assert {name for name, _ in uses("MAXLEN")} == {"route.lua", "discard.lua", "registry.py"}
    assert all("KEYS[6]" in line for name, line in uses("MAXLEN") if name == "route.lua")
    assert all("KEYS[4]" in line for name, line in uses("MAXLEN") if name == "discard.lua")
    assert uses("XTRIM|MINID") == {
        ("cut.lua", "return redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[2])"),
    }


def test_the_scripts_that_cap_a_stream_cap_the_doorbell() -> None:
    headers = {
        path.name: [line for line in path.read_text().splitlines() if line.startswith("--")]
        for path in SOURCES
        if path.suffix == ".lua"
    }
    assert re.search(r"\b6 doorbell", " ".join(headers["route.lua"]))
    assert re.search(r"\b4 doorbell", " ".join(headers["discard.lua"]))


def test_no_consumer_is_deleted_and_nothing_is_flushed_or_watched() -> None:
    """`DELCONSUMER` orphans what it had pending; `WATCH` does not survive a cancellation."""
    assert uses(r"""["']?(DELCONSUMER|WATCH|MULTI|FLUSHALL|FLUSHDB|XSETID)["']""") == set()


def test_a_group_is_only_destroyed_with_a_mailbox_that_is_pushed_from_now_on() -> None:
    assert {name for name, _ in uses("'DESTROY'|\"DESTROY\"")} == {"activate.lua"}


# --- waiting ----------------------------------------------------------------------------------------------


def test_no_read_blocks_for_as_long_as_silence_is_borne() -> None:
    """A reader that is given up while it blocks would begin anew every time."""
    waits = {
        (path.name, int(found.group(1).replace("_", "")))
        for path in SOURCES
        for found in re.finditer(r"^\w*BLOCK_MS: Final = ([\d_]+)", path.read_text(), re.MULTILINE)
    }
    assert {name for name, _ in waits} >= {"lanes.py", "doorbell.py", "shard_recorder.py", "native.py"}
    for name, wait_ms in waits:
        assert 0 < wait_ms * 2 <= node_module.SILENCE_MS_MAX, name


# --- nothing is repeated blindly --------------------------------------------------------------------------


@one_server
@pytest.mark.parametrize("times", [3])
async def test_a_write_whose_reply_is_dropped_is_done_once_and_its_caller_is_told(
    any_streams_url, raw, times
):
    """A client that tries again by itself stores it four times and reports one success."""
    async with proxied(any_streams_url) as proxy:
        link = Link(proxy.url, name="test")
        for number in range(times):
            connection = await link.get()
            proxy.hold_replies()
            writing = asyncio.ensure_future(connection.send("XADD", "work", "*", "n", number))
            await until(lambda number=number: raw.xlen("work") == number + 1)
            proxy.cut()
            with pytest.raises(StreamsUnavailable):
                await writing
            proxy.let_go()
        assert await (await link.get()).send("PING") == b"PONG"
        await link.close()
    assert [fields[b"n"] for _, fields in raw.xrange("work")] == [b"%d" % number for number in range(times)]


@one_server
async def test_the_gauge_shows_the_connections_there_are(any_streams_url):
    gauge = metrics.REDIS_CONNECTIONS.child()
    before = gauge.now()
    async with (
        await open_connection(any_streams_url, name="one"),
        await open_connection(any_streams_url, name="two"),
    ):
        assert gauge.now() == before + 2
    await until(lambda: gauge.now() == before)
