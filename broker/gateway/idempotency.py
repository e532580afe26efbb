"""`Idempotency-Key`: the same request under the same key is done once and answered alike for 24 hours.

Theory of operation: the key is claimed in Postgres, with the hash of the request and the id under which the
operation will run; then it runs under that id; then its reply is kept. Whoever comes meanwhile, or after a
crash in between, on whichever gateway, runs it under the *same* id. So the operation must be harmless to
repeat under one id (a message published again is dropped), and `once` needs no lock: of replies given at the
same time the first that is kept is everybody's.

A refusal (4xx) is not kept: nothing was done, and the same request may be right a moment later. When a store
is away the claim stays, so that the retry runs under the same id.

Without the header nothing here touches Postgres; with it, Postgres being away is 503.
"""

import re
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Final

import msgspec

from broker.gateway.call import Call, Reply
from broker.store import idempotency as claims
from broker.store.idempotency import Answer, Claim
from broker.telemetry import logs, metrics
from schema.codec import encode
from schema.errors import Conflict, Fault, IdempotencyMismatch, Rejected, StoreUnavailable
from schema.ids import new_id
from schema.limits import IDEMPOTENCY_KEY_CHARS_MAX

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = ("Idempotent-Replayed", "true")

_FIRST: Final = metrics.IDEMPOTENT.child(outcome="first")
_REPLAYED: Final = metrics.IDEMPOTENT.child(outcome="replayed")
_MISMATCHED: Final = metrics.IDEMPOTENT.child(outcome="mismatched")
# Spaces at the ends of a header are lost on the way, and other alphabets have no agreed bytes in one.
KEY_PATTERN: Final = "^[!-~]([ -~]*[!-~])?$"
_KEY: Final = re.compile(KEY_PATTERN)
_canonical: Final = msgspec.json.Encoder(order="sorted")

Run = Callable[[str | None], Awaitable[Reply]]
"""Runs an operation under an id; None: under any."""


async def once(call: Call[Any, Any], operation: str, actor: str | None, run: Run) -> Reply:
    """Run an operation, or answer as it was answered before under the same key.

    `actor`: who the caller acts as; each has keys of its own. The body counts as the same when its JSON is.

    Raises: Rejected (a key that is none), IdempotencyMismatch, StoreUnavailable, and what `run` raises.
    """
    given = call.idempotency_key
    if given is None:
        return await run(None)
    _check(given)
    pool, now_ms = call.services.pool, call.services.now_ms()
    caller = actor or f"key {call.principal.key_id}"
    key = sha256(encode([operation, caller, given])).digest()
    body = fingerprint(call.body)
    made = await claims.claim(pool, key, body, target_id=new_id(), now_ms=now_ms)
    if made.body != body:
        _MISMATCHED.inc()
        raise IdempotencyMismatch("this Idempotency-Key came with another body before", field=HEADER)
    if made.answer is not None:
        return _replayed(made.answer)
    return await _run(call, made, run)


def fingerprint(body: object) -> bytes:
    """Return the hash of a request: the same for equal JSON, whatever its spaces and order of fields."""
    return sha256(_canonical.encode(msgspec.json.decode(encode(body)))).digest()


async def _run(call: Call[Any, Any], made: Claim, run: Run) -> Reply:
    pool = call.services.pool
    try:
        reply = await run(made.target_id)
    except (Rejected, Conflict):
        await claims.release(pool, made)
        raise
    body = reply.body if isinstance(reply.body, bytes) else encode(reply.body)
    given = Answer(reply.status, body, list(reply.headers))
    try:
        kept = await claims.answer(pool, made, given)
    except StoreUnavailable as error:
        # It is done: the caller shall hear so. A retry runs under the same id.
        logs.warning("idempotency.reply_not_kept", reason=error.message)
        kept = given
    if kept is not given:
        return _replayed(kept)
    _FIRST.inc()
    return Reply(status=given.status, body=body, headers=reply.headers, media_type=reply.media_type)


def _replayed(given: Answer) -> Reply:
    _REPLAYED.inc()
    return Reply(status=given.status, body=given.body, headers=(*given.headers, REPLAYED))


def _check(key: str) -> None:
    if len(key) > IDEMPOTENCY_KEY_CHARS_MAX or _KEY.fullmatch(key) is None:
        message = f"must be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters"
        raise Rejected(f"{HEADER}: {message}", field=HEADER, faults=(Fault(HEADER, message),))
