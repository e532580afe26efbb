"""An agent's endpoint lets only the broker in."""

import asyncio
import socket
from time import time

from broker.demo.inbox import Pushed, serve
from broker.transport.signature import Signer, new_secret
from schema.codec import encode
from schema.ids import new_id

SECRET = new_secret()


def push(*, secret: str, attempt: int = 1) -> tuple[str, bytes]:
    message_id = new_id()
    body = encode({"id": message_id, "message_type": "task", "content": {"a": 1}, "reply_to": None})
    now_s = int(time())
    head = (
        "POST /inbox HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nwebhook-id: {message_id}\r\nwebhook-timestamp: {now_s}\r\n"
        f"webhook-signature: {Signer(secret).sign(message_id, now_s, body).decode()}\r\n"
        f"x-attempt: {attempt}\r\n\r\n"
    )
    return message_id, head.encode() + body


async def status_of(port: int, request: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split(b" ", 2)[1])


async def test_signed_push_reaches_the_agent_and_any_other_does_not() -> None:
    taken: list[tuple[str, int]] = []

    async def handle(message: Pushed, attempt: int) -> int:
        taken.append((message.id, attempt))
        return 202

    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        serving = asyncio.create_task(serve(listening, SECRET, handle, stop))
        message_id, request = push(secret=SECRET, attempt=3)
        assert await status_of(port, request) == 202
        assert await status_of(port, push(secret=new_secret())[1]) == 401
        stop.set()
        await serving
    assert taken == [(message_id, 3)]
