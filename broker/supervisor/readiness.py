"""Waiting until the broker takes requests."""

import asyncio
from typing import Final

POLL_S: Final = 0.1
ANSWER_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 64 * 1024


async def wait_until_ready(host: str, port: int) -> None:
    """Return when `/readyz` of the gateway says 200; asks for as long as it takes."""
    while not await _is_ready(host, port):  # noqa: ASYNC110  # another process cannot set our events
        await asyncio.sleep(POLL_S)


async def _is_ready(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read(ANSWER_BYTES_MAX)
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
    return answer.split(b" ", 2)[1:2] == [b"200"]
