"""How each fault is planted: the functions and scripts of the product that it replaces, in this process.

A fault is planted through a `MonkeyPatch`, so that whoever turned it on can undo it. The product knows
nothing of this. A script whose text no longer has the line a fault changes is an error here: a mutant that
changes nothing would be caught by nobody, and a table that says otherwise would lie.
"""

import hashlib
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from broker.core import breaker, fold
from broker.gateway import access
from broker.servers import valkey
from broker.store import record
from broker.streams import calls, ingress, scripts
from broker.streams.connection import Argument, Connection, OnReply, Reply
from broker.streams.scripts import Script
from broker.telemetry import logs
from broker.transport import resolver
from broker.transport.outcome import Trouble
from schema.codec import decode_stored_envelope, encode
from schema.errors import BrokerError
from schema.ids import new_id
from workers import moving, router, shard_recorder
from workers.delivery import collector, dispatch, shelving
from workers.placing import Way

Replace = Any  # whatever stands in for a function of the product: each has its own signature
CAPPED = 1_000
"""Entries a capped stream keeps: a number somebody might believe to be plenty."""


# --- Redis ----------------------------------------------------------------------------------------------


def cut_before_commit(patch: pytest.MonkeyPatch) -> None:
    recorded = shard_recorder.ShardRecorder._record

    async def record_late(self: Replace, ledger: Replace, tell: Replace, batch: Replace) -> bool:
        await self._cut(ledger, batch.last_id)
        return await recorded(self, ledger, tell, batch)

    patch.setattr(shard_recorder.ShardRecorder, "_record", record_late)


def move_in_two_calls(patch: pytest.MonkeyPatch) -> None:
    """Delete from the ingress first, and move when that is answered: a kill or a refusal can come between."""
    run = calls.Connection.run

    def run_apart(
        self: Connection, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], on: OnReply
    ) -> None:
        if script is not scripts.ROUTE:
            run(self, script, keys, arguments, on)
            return
        counts = [int(count) for count in arguments[15:18]]
        done = list(arguments[len(arguments) - sum(counts) :])
        deletions = []
        for lane, count in enumerate(counts):
            entries, done = done[:count], done[count:]
            if entries:
                deletions.append(("XDEL", keys[13 + lane], *entries))

        def deleted(_: Reply) -> None:
            run(self, script, keys, arguments, on)

        for deletion in deletions[:-1]:
            self.call(deletion, lambda _: None)
        if deletions:
            self.call(deletions[-1], deleted)
        else:
            run(self, script, keys, arguments, on)

    patch.setattr(calls.Connection, "run", run_apart)


def capped_mailboxes(patch: pytest.MonkeyPatch) -> None:
    for plain in ("'*', 'm', message)", "'*', 'm', message, 'w', waiter[i])"):
        _rewrite(patch, scripts.ROUTE, plain, f"'MAXLEN', {CAPPED}, {plain}")


def no_deduplication(patch: pytest.MonkeyPatch) -> None:
    _rewrite(patch, scripts.ROUTE, "if known[i] == 1 and not duplicate[i] then", "if false then")


def settled_unfenced(patch: pytest.MonkeyPatch) -> None:
    fence = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED settle') end"
    _rewrite(patch, scripts.SETTLE, fence, "")


def ended_twice(patch: pytest.MonkeyPatch) -> None:
    told = "if gone == 1 then events[#events + 1] = event end"
    _rewrite(patch, scripts.EXPIRE, told, "if event ~= '' then events[#events + 1] = event end")


def lease_taken_from_its_holder(patch: pytest.MonkeyPatch) -> None:
    held = "if holder and string.match(holder, '^%d+:(.*)$') ~= ARGV[2] then return false end"
    _rewrite(patch, scripts.LEASE, held, "")


def retries_taken_out(patch: pytest.MonkeyPatch) -> None:
    """Take due retries out of Redis instead of marking them: their count dies with their owner."""
    marked = "redis.call('ZADD', KEYS[2], 'XX', unpack(marked))"
    _rewrite(patch, scripts.TAKE_DUE, marked, "redis.call('ZREM', KEYS[2], unpack(members))")


def synced_every_second(patch: pytest.MonkeyPatch) -> None:
    promised = "appendfsync {durability}"
    assert promised in valkey._CONFIG
    patch.setattr(valkey, "_CONFIG", valkey._CONFIG.replace(promised, "appendfsync everysec"))


def repeated_under_a_new_id(patch: pytest.MonkeyPatch) -> None:
    """Repeat a publish whose reply was lost as if it were another message."""

    insist = ingress._LaneQueue._insist

    def insist_anew(self: Replace, answers: Replace, command: list[str | bytes], *, tried: int) -> None:
        if tried:
            command = [_renamed(part) if isinstance(part, bytes) else part for part in command]
        insist(self, answers, command, tried=tried)

    patch.setattr(ingress._LaneQueue, "_insist", insist_anew)


# --- workers --------------------------------------------------------------------------------------------


def no_reading_from_the_start(patch: pytest.MonkeyPatch) -> None:
    """A new owner believes that nothing lies in the mailboxes it takes over."""
    take_over = collector.Collector.take_over

    async def take_over_blindly(self: Replace, owner: str) -> None:
        async def sweep() -> None:
            """Look at nothing."""

        self.sweep = sweep
        try:
            await take_over(self, owner)
        finally:
            del self.sweep

    patch.setattr(collector.Collector, "take_over", take_over_blindly)


def direct_messages_left_behind(patch: pytest.MonkeyPatch) -> None:
    """A new owner believes that nothing was handed over directly to the one before."""

    async def take_over_nothing(self: Replace) -> None:
        await self._connection.send("SET", self._keys.direct_to, self.life)

    patch.setattr(shelving.Shelver, "take_over", take_over_nothing)


def handed_to_whoever(patch: pytest.MonkeyPatch) -> None:
    """Hand messages over without asking whether who gets them is still there."""
    fence = "if direct > 0 and redis.call('GET', KEYS[13]) ~= ARGV[19] then"
    _rewrite(patch, scripts.ROUTE, fence, "if false then")


def deleted_when_posted(patch: pytest.MonkeyPatch) -> None:
    """Let an entry go when it is posted, not when the answer has come."""
    post = dispatch.Dispatch._post

    def post_and_forget(self: Replace, endpoint: Replace, item: Replace, now_ms: int) -> None:
        post(self, endpoint, item, now_ms)
        settler = self._settler
        place = (
            ("HDEL", settler._keys.direct, item.entry)
            if item.direct
            else ("XDEL", item.mailbox.key, item.entry)
        )
        settler._connection.call(place, lambda _: None)

    patch.setattr(dispatch.Dispatch, "_post", post_and_forget)


def open_breaker_lets_through(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(breaker.Breaker, "may_send", lambda self, now_ms: True)


def choice_not_written_down(patch: pytest.MonkeyPatch) -> None:
    forward = router.Router._forward

    async def forward_at_once(self: Replace, leaving: Replace, now_ms: int) -> None:
        chosen = [one for _, one in leaving if one.chosen]
        for one in chosen:
            one.chosen = False
        try:
            await forward(self, leaving, now_ms)
        finally:
            for one in chosen:
                one.chosen = True

    patch.setattr(router.Router, "_forward", forward_at_once)


def parked_for_ever(patch: pytest.MonkeyPatch) -> None:
    """Forget the expiry of what is parked, and only there."""
    note_rest = moving._note_rest

    def note_but_parked(batch: Replace, placement: Replace) -> None:
        if placement.way is not Way.PARKED:
            note_rest(batch, placement)

    patch.setattr(moving, "_note_rest", note_but_parked)


# --- the record -----------------------------------------------------------------------------------------


def status_goes_backwards(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fold, "may_become", lambda current, wanted: True)


def record_takes_the_last_word(patch: pytest.MonkeyPatch) -> None:
    """Merge a row with whatever status comes later, in PostgreSQL."""
    ranked = "message_rank(excluded.status) > message_rank(m.status)"
    for name in ("_MESSAGES", "_UPDATES"):
        statement = getattr(record, name)
        assert ranked in statement
        patch.setattr(record, name, statement.replace(ranked, "excluded.status IS NOT NULL"))


# --- the edges ------------------------------------------------------------------------------------------


def judged_before_the_connect(patch: pytest.MonkeyPatch) -> None:
    """Judge what a name resolves to, then resolve it again to connect."""
    resolve = resolver.Resolver.resolve

    async def resolve_again(self: Replace, host: str, *, limit_ms: int) -> resolver.Found | Trouble:
        judged = await resolve(self, host, limit_ms=limit_ms)
        if isinstance(judged, Trouble) or resolver.literal_of(host) is not None:
            return judged
        rows = self._getaddrinfo(host, None)
        return tuple(ip_address(row[4][0]) for row in rows)

    patch.setattr(resolver.Resolver, "resolve", resolve_again)


def secret_logged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(logs, "without_secrets", lambda url: url)


def foreign_messages_shown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(access, "may_see", lambda principal, message: True)


# --- inside ---------------------------------------------------------------------------------------------


def _rewrite(patch: pytest.MonkeyPatch, script: Script, line: str, instead: str) -> None:
    if script.text.count(line) != 1:
        raise AssertionError(f"{script.name}.lua does not have this once any more: {line}")
    text = script.text.replace(line, instead)
    patch.setattr(script, "text", text)
    patch.setattr(script, "digest", hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _renamed(part: bytes) -> bytes:
    try:
        envelope = decode_stored_envelope(part)
    except (BrokerError, ValueError):
        return part
    envelope.id = new_id()
    return encode(envelope)


Plant = Callable[[pytest.MonkeyPatch], None]
