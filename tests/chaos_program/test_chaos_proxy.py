"""The proxy between processes: what it does to a connection, and that it is well again afterwards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from chaos.links import Links

SOON_S = 20


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def links() -> AsyncIterator[Links]:
    async with echo() as port:
        with _links(port) as running:
            yield running


def _links(port: int) -> Links:
    return Links({"a>b": ("127.0.0.1", port)})


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: bytes) -> bytes:
    writer.write(words)
    async with asyncio.timeout(SOON_S):
        return await reader.readexactly(len(words))


async def test_bytes_go_there_and_back_and_are_counted(links: Links) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", links.ports["a>b"])
    assert await said(reader, writer, b"hello") == b"hello"
    assert links.figures() == {"a>b": {"opened": 1, "bytes": 10}}
    writer.close()
    await writer.wait_closed()


async def test_what_is_frozen_flows_on_afterwards(links: Links) -> None:
    links.tell("a>b", frozen=True)
    links.figures()
    reader, writer = await asyncio.open_connection("127.0.0.1", links.ports["a>b"])
    writer.write(b"hello")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    links.tell("a>b")
    async with asyncio.timeout(SOON_S):
        assert await reader.readexactly(5) == b"hello"
    writer.close()
    await writer.wait_closed()


async def test_latency_delays_and_keeps_the_order(links: Links) -> None:
    links.tell("a>b", latency_s=0.1)
    links.figures()
    reader, writer = await asyncio.open_connection("127.0.0.1", links.ports["a>b"])
    began_s = asyncio.get_running_loop().time()
    writer.write(b"one ")
    links.tell("a>b")
    assert await said(reader, writer, b"two") == b"one"
    assert await reader.readexactly(4) == b" two"
    assert asyncio.get_running_loop().time() - began_s < SOON_S
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("rule", [{"reset": True}, {"cut_after": 3}], ids=["reset", "cut"])
async def test_a_connection_is_reset(rule: dict[str, object], links: Links) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", links.ports["a>b"])
    await said(reader, writer, b"hello")
    links.tell("a>b", **rule)
    links.figures()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await said(reader, writer, b"hello")
    links.tell("a>b")
    links.figures()
    reader, writer = await asyncio.open_connection("127.0.0.1", links.ports["a>b"])
    assert await said(reader, writer, b"hello") == b"hello"
    writer.close()
    await writer.wait_closed()
