"""Webhooks as an agent receives them."""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook as Standard

from broker.client import WebhookApp, webhooks
from broker.client.incoming import Arrival
from broker.client.outcomes import Again, Failed, Outcome, Processed
from broker.transport.signature import Signer, new_secret
from schema.errors import Rejected, Unauthenticated

SECRET = new_secret()
MESSAGE = {"id": "m1", "message_type": "task", "content": {"n": 1}, "from_agent_id": "a", "hop": 0}


def signed(body: bytes, *, secret: str = SECRET, at_s: float | None = None, **more: str) -> dict[str, str]:
    stamp = int(time.time() if at_s is None else at_s)
    signature = Signer(secret).sign("m1", stamp, body).decode()
    return {"webhook-id": "m1", "webhook-timestamp": str(stamp), "webhook-signature": signature, **more}


def answering(outcome: Outcome, seen: list[tuple[str, int]]) -> Callable[[Arrival, int], Awaitable[Outcome]]:
    async def handle(arrival: Arrival, attempt: int) -> Outcome:
        seen.append((arrival.id, attempt))
        return outcome

    return handle


async def post(app: WebhookApp, body: bytes, headers: dict[str, str], method: str = "POST") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://agent") as http:  # type: ignore[arg-type]  # httpx types ASGI more loosely
        return await http.request(method, "/hook", content=body, headers=headers)


@pytest.mark.parametrize(
    ("outcome", "status", "body"),
    [
        (Processed({"x": 1}), 200, {"status": "processed", "result": {"x": 1}}),
        (Processed(1, {"y": 2}), 200, {"status": "processed", "result": 1, "reply": {"y": 2}}),
        (Failed("no"), 200, {"status": "failed", "reason": "no"}),
        (Again(7), 503, None),
    ],
)
async def test_a_signed_push_is_answered_with_what_came_of_it(
    outcome: Outcome, status: int, body: Any
) -> None:
    seen: list[tuple[str, int]] = []
    pushed = json.dumps(MESSAGE).encode()
    reply = await post(
        WebhookApp(answering(outcome, seen), secrets=SECRET), pushed, signed(pushed, **{"x-attempt": "4"})
    )
    assert (reply.status_code, seen) == (status, [("m1", 4)])
    if body is not None:
        assert reply.json() == body
    else:
        assert reply.headers["retry-after"] == "7"


async def test_what_is_not_the_broker_s_reaches_no_handler() -> None:
    seen: list[tuple[str, int]] = []
    app = WebhookApp(answering(Processed(), seen), secrets=SECRET)
    pushed = json.dumps(MESSAGE).encode()
    for headers in (
        {},
        signed(pushed, secret=new_secret()),
        signed(pushed, at_s=time.time() - 301),
        signed(pushed, at_s=time.time() + 301),
        signed(pushed + b" "),
    ):
        assert (await post(app, pushed, headers)).status_code == 401
    assert (await post(app, b"[]", signed(b"[]"))).status_code == 400
    assert (await post(app, b"", {}, "GET")).status_code == 405
    large = b" " * (webhooks.BODY_BYTES_MAX + 1)
    assert (await post(app, large, signed(large))).status_code == 413
    assert seen == []


async def test_both_secrets_of_a_rotation_are_good() -> None:
    seen: list[tuple[str, int]] = []
    former = new_secret()
    app = WebhookApp(answering(Processed(), seen), secrets=(SECRET, former))
    pushed = json.dumps(MESSAGE).encode()
    for secret in (SECRET, former):
        assert (await post(app, pushed, signed(pushed, secret=secret))).status_code == 200


def test_verify_agrees_with_the_standard_s_own_library() -> None:
    body = b'{"a":1}'
    headers = signed(body)
    webhooks.verify(SECRET, headers, body)
    assert Standard(SECRET).verify(body, headers) == {"a": 1}
    with pytest.raises(Unauthenticated, match="no secret"):
        webhooks.verify((), headers, body)
    with pytest.raises(Rejected, match="begins with"):
        webhooks.verify("secret", headers, body)
    with pytest.raises(Unauthenticated, match="away from now"):
        webhooks.verify(SECRET, headers, body, now_s=time.time() + 10, tolerance_s=5)
