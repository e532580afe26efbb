"""What a connection may do that no client of ours does: it is bounded, and takes nobody's answer."""

import asyncio
from contextlib import suppress

import httpx
import pytest
from gateway_rig import OPERATOR_KEY, Register

from schema import limits

KEY = f"Authorization: Bearer {OPERATOR_KEY}\r\n"
BODY = b'{"to_agent_id":"to"}'


def head(target: str, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"POST {target} HTTP/1.1\r\nHost: x\r\n{KEY}{lines}\r\n".encode()


async def connect(http: httpx.AsyncClient) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", http.base_url.port)


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Return the head of the next reply, its body read."""
    async with asyncio.timeout(20):
        text = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(text.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
    return text


async def test_a_body_that_is_too_large_is_answered_once(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_RECEIVE_MS_MAX", 1_000)
    reader, writer = await connect(http)
    size = 2 * limits.MESSAGE_BYTES_MAX
    # More than is read at once, so that the gateway waits for the rest of it for a moment.
    writer.write(head("/api/messages", f"Content-Length: {size}") + b" " * size)
    assert (await answer(reader)).startswith(b"HTTP/1.1 413 ")
    with suppress(TimeoutError):
        async with asyncio.timeout(1.5):
            assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("target", ["/api/messages", "/api/messages/batch"])
async def test_what_follows_a_chunked_body_is_bounded_as_a_head_is(
    http: httpx.AsyncClient, target: str
) -> None:
    reader, writer = await connect(http)
    writer.write(head(target, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\nX-Endless: ")
    sent = 0
    with suppress(ConnectionError):
        async with asyncio.timeout(20):
            while not reader.at_eof() and sent < 16 * 1024 * 1024:
                writer.write(b"a" * 65_536)
                await writer.drain()
                sent += 65_536
                await asyncio.sleep(0)
    writer.close()
    assert sent < 16 * 1024 * 1024


async def test_a_short_trailer_changes_nothing(http: httpx.AsyncClient, register: Register) -> None:
    await register("to")
    reader, writer = await connect(http)
    for _ in range(2):
        writer.write(head("/api/messages?wait=accepted", "Transfer-Encoding: chunked"))
        writer.write(b"%x\r\n%b\r\n0\r\nX-More: a\r\n\r\n" % (len(BODY), BODY))
        assert (await answer(reader)).startswith(b"HTTP/1.1 202 ")
    writer.close()


@pytest.mark.parametrize("target", ["/api/messages", "/api/messages?timeout_ms=300"])
async def test_what_is_no_http_does_not_answer_the_request_before_it(
    http: httpx.AsyncClient, register: Register, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(limits, "WAIT_MS_DEFAULT", 300)
    await register("to")
    assert (await http.post("/api/messages?wait=accepted", json={"to_agent_id": "to"})).status_code == 202
    reader, writer = await connect(http)
    whole = head(target, f"Content-Length: {len(BODY)}") + BODY
    writer.write(whole + b"nothing like HTTP\r\n\r\n")
    assert (await answer(reader)).startswith(b"HTTP/1.1 201 ")
    async with asyncio.timeout(10):
        await reader.read()  # and the connection ends
    writer.close()


async def test_a_connection_that_sends_empty_lines_is_closed(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await connect(http)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await answer(reader)).startswith(b"HTTP/1.1 200 ")
    monkeypatch.setattr(limits, "BODY_RECEIVE_MS_MAX", 50)
    writer.write(b"\r\n")
    async with asyncio.timeout(10):
        await reader.read()
    writer.close()
