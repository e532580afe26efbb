"""What endpoints say, and what the client makes of it: tables of answers and of failures on real sockets."""

import asyncio
from typing import NamedTuple

import pytest
from peer import HASTY, OK, PATIENT, Link, Script, answer, peer, post, pushing

from broker.transport.client import Answer, Deadlines, Failure, FailureKind
from schema.limits import RESPONSE_HEADER_BYTES_MAX, RESPONSE_READ_BYTES_MAX

BIG = b"x" * (RESPONSE_READ_BYTES_MAX + 1)


class Case(NamedTuple):
    sent: bytes
    status: int = 200
    body: bytes = b""
    retry_after: str | None = None
    kept: bool = True
    """The connection is used again."""


ANSWERS = {
    "plain": Case(OK, body=b"{}"),
    "empty": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "created": Case(b"HTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\nx", 201, b"x"),
    "no content": Case(b"HTTP/1.1 204 No Content\r\n\r\n", 204),
    "204 that announces a body": Case(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204),
    "204 with a body": Case(b"HTTP/1.1 204 N\r\nContent-Length: 5\r\n\r\nhello", 204, kept=False),
    "not modified": Case(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304),
    "no reason": Case(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"),
    "chunked": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n",
        body=b"abcde",
    ),
    "close announced": Case(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", 200, b"x", kept=False
    ),
    "old protocol": Case(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, b"x", kept=False),
    "old protocol kept alive": Case(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", 200, b"x"
    ),
    "interim responses first": Case(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nRetry-After: 9\r\n\r\n" + OK, body=b"{}"
    ),
    "redirect": Case(
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 302
    ),
    "too many requests": Case(
        b"HTTP/1.1 429 T\r\nretry-AFTER: 120\r\nContent-Length: 0\r\n\r\n", 429, retry_after="120"
    ),
    "unavailable until a date": Case(
        b"HTTP/1.1 503 U\r\nContent-Length: 0\r\nRetry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\n",
        503,
        retry_after="Wed, 21 Oct 2015 07:28:00 GMT",
    ),
    "retry-after of an interim response": Case(
        b"HTTP/1.1 103 E\r\nRetry-After: 9\r\n\r\nHTTP/1.1 503 U\r\nContent-Length: 0\r\n\r\n", 503
    ),
    "retry-after of what was not asked for": Case(
        b"HTTP/1.1 503 U\r\nContent-Length: 0\r\n\r\n"
        b"HTTP/1.1 503 U\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n",
        503,
        kept=False,
    ),
    "long retry-after": Case(
        b"HTTP/1.1 503 U\r\nRetry-After: " + b"9" * 1000 + b"\r\nContent-Length: 0\r\n\r\n",
        503,
        retry_after="9" * 64,
    ),
    "server error": Case(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", 500, b"oops"),
    "second response nobody asked for": Case(OK + OK, body=b"{}", kept=False),
    "beginning of a second response": Case(OK + b"H", body=b"{}", kept=False),
    "interim response behind": Case(OK + b"HTTP/1.1 100 Continue\r\n\r\n", body=b"{}", kept=False),
    "garbage behind": Case(OK + b"\x00\xff garbage", body=b"{}", kept=False),
    "body at the limit": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG[1:]) + BIG[1:], body=BIG[1:]
    ),
    "body past the limit": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG) + BIG, body=BIG[1:], kept=False
    ),
    "body far past the limit that never ends": Case(
        b"HTTP/1.1 500 OK\r\nContent-Length: 99999999999\r\nRetry-After: 1\r\n\r\n" + BIG * 4,
        500,
        BIG[1:],
        "1",
        kept=False,
    ),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in ANSWERS.items()])
@pytest.mark.parametrize("whole", [True, False], ids=["at once", "byte by byte"])
async def test_response_is_read_as_it_was_meant(case: Case, whole: bool) -> None:
    async def script(link: Link) -> None:
        while True:
            await link.request()
            # A long body need not drip to its end to make the point.
            await (link.write(case.sent) if whole else drip(link, case.sent))

    async def drip(link: Link, data: bytes) -> None:
        await link.drip(data[:2_000])
        await link.write(data[2_000:])

    async with peer(script) as there, pushing() as client:
        # Dripped, what nobody asked for may come after the next request: HTTP/1.1 cannot tell.
        posts = 2 if whole or case.kept else 1
        for _ in range(posts):
            got = await answer(client, there.target())
            assert (got.status, got.body, got.retry_after) == (case.status, case.body, case.retry_after)
        assert there.accepted == (1 if case.kept else posts)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"])
async def test_body_without_a_length_ends_with_the_connection(head: bytes) -> None:
    async def script(link: Link) -> None:
        await link.request()
        await link.drip(head + b"abc")

    async with peer(script) as there, pushing() as client:
        assert (await answer(client, there.target())).body == b"abc"
        assert (await answer(client, there.target())).body == b"abc"
        assert there.accepted == 2


async def test_endless_chunks_are_cut_and_the_status_counts() -> None:
    async def script(link: Link) -> None:
        await link.request()
        await link.write(b"HTTP/1.1 202 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await link.write(b"400\r\n" + b"y" * 1024 + b"\r\n")

    async with peer(script) as there, pushing() as client:
        got = await answer(client, there.target())
        assert (got.status, got.body) == (202, b"y" * RESPONSE_READ_BYTES_MAX)
        await there.until(lambda it: it.closed == 1)


async def test_endless_chunk_extension_is_cut_and_the_status_counts() -> None:
    async def script(link: Link) -> None:
        await link.request()
        await link.write(b"HTTP/1.1 202 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        while True:
            await link.write(b"e" * 1024)

    async with peer(script) as there, pushing() as client:
        got = await answer(client, there.target())
        assert (got.status, got.body) == (202, b"")


async def _silent(link: Link) -> None:
    await link.until_closed()


async def _hangs_up(link: Link) -> None:
    await link.request()


async def _hangs_up_at_once(link: Link) -> None:
    link.reset()


async def _resets(link: Link) -> None:
    await link.request()
    link.reset()


async def _resets_in_the_body(link: Link) -> None:
    await link.request()
    await link.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
    await link.request()


async def _ends_in_the_body(link: Link) -> None:
    await link.request()
    await link.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")


async def _ends_in_the_chunks(link: Link) -> None:
    await link.request()
    await link.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")


async def _ends_in_the_head(link: Link) -> None:
    await link.request()
    await link.write(b"HTTP/1.1 200 OK\r\nContent-Le")


async def _ends_after_an_interim_response(link: Link) -> None:
    await link.request()
    await link.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _forever(link: Link, first: bytes, again: bytes) -> None:
    await link.request()
    await link.write(first)
    while True:
        await link.write(again)
        await asyncio.sleep(0.01)


async def _drips_headers(link: Link) -> None:
    await _forever(link, b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")


async def _drips_body(link: Link) -> None:
    await _forever(link, b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"z")


async def _drips_interim_responses(link: Link) -> None:
    await _forever(link, b"", b"HTTP/1.1 102 Processing\r\n\r\n")


async def _headers_without_end(link: Link) -> None:
    await link.request()
    await link.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        await link.write(b"X: " + b"y" * 1000 + b"\r\n")


def _sends(data: bytes) -> Script:
    async def script(link: Link) -> None:
        await link.request()
        await link.write(data)
        await link.until_closed()

    return script


HUGE_HEAD = b"HTTP/1.1 200 OK\r\nX: " + b"y" * RESPONSE_HEADER_BYTES_MAX + b"\r\nContent-Length: 0\r\n\r\n"
FAILURES: dict[str, tuple[Script, FailureKind]] = {
    "silent": (_silent, FailureKind.TIMEOUT),
    "hangs up": (_hangs_up, FailureKind.RESET),
    "hangs up at once": (_hangs_up_at_once, FailureKind.RESET),
    "resets": (_resets, FailureKind.RESET),
    "ends in the body": (_ends_in_the_body, FailureKind.RESET),
    "ends in the chunks": (_ends_in_the_chunks, FailureKind.RESET),
    "ends in the head": (_ends_in_the_head, FailureKind.RESET),
    "ends after an interim response": (_ends_after_an_interim_response, FailureKind.RESET),
    "stops in the body": (_resets_in_the_body, FailureKind.TIMEOUT),
    "drips headers": (_drips_headers, FailureKind.TIMEOUT),
    "drips the body": (_drips_body, FailureKind.TIMEOUT),
    "drips interim responses": (_drips_interim_responses, FailureKind.PROTOCOL),
    "headers without end": (_headers_without_end, FailureKind.TOO_LARGE),
    "huge headers": (_sends(HUGE_HEAD), FailureKind.TOO_LARGE),
    "huge header, no end": (_sends(HUGE_HEAD[:-40]), FailureKind.TOO_LARGE),
    "flood of interim responses": (_sends(b"HTTP/1.1 100 C\r\n\r\n" * 1000 + OK), FailureKind.PROTOCOL),
    "switches protocols": (
        _sends(b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        FailureKind.PROTOCOL,
    ),
    "garbage": (_sends(b"\x00\x01\x02"), FailureKind.PROTOCOL),
    "html without a head": (_sends(b"<html></html>"), FailureKind.PROTOCOL),
    "status 000": (_sends(b"HTTP/1.1 000 N\r\nContent-Length: 0\r\n\r\n"), FailureKind.PROTOCOL),
    "status 600": (_sends(b"HTTP/1.1 600 N\r\nContent-Length: 0\r\n\r\n"), FailureKind.PROTOCOL),
    "two lengths": (
        _sends(b"HTTP/1.1 200 N\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n"),
        FailureKind.PROTOCOL,
    ),
    "length and chunks": (
        _sends(b"HTTP/1.1 200 N\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        FailureKind.PROTOCOL,
    ),
    "bare line feeds": (_sends(b"HTTP/1.1 200 N\nContent-Length: 0\n\n"), FailureKind.PROTOCOL),
    "bad chunk size": (
        _sends(b"HTTP/1.1 200 N\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
        FailureKind.PROTOCOL,
    ),
}


@pytest.mark.parametrize(
    ("script", "kind"), [pytest.param(*case, id=name) for name, case in FAILURES.items()]
)
async def test_misbehaviour_is_a_failure_of_its_kind_in_time(script: Script, kind: FailureKind) -> None:
    async with peer(script) as there, pushing() as client:
        # Only what would go on for ever is cut short: sixteen interim responses take 0.2 s or more.
        deadlines = HASTY if kind is FailureKind.TIMEOUT else PATIENT
        outcome = await post(client, there.target(path="/secret"), b'"secret"', deadlines)
        assert isinstance(outcome, Failure), outcome
        assert outcome.kind is kind
        assert "secret" not in outcome.message
        assert len(outcome.message) < 100
        await there.until(lambda it: it.closed == it.accepted)


@pytest.mark.parametrize("script", [_drips_headers, _drips_body, _silent])
async def test_total_deadline_holds_however_it_drips(script: Script) -> None:
    deadlines = Deadlines(total_ms=400, first_byte_ms=60_000)
    async with peer(script) as there, pushing() as client:
        outcome = await post(client, there.target(), deadlines=deadlines)
        assert isinstance(outcome, Failure)
        assert outcome.kind is FailureKind.TIMEOUT
        # Far from every other deadline: a machine may stand still for seconds.
        assert 400 <= outcome.duration_ms < 30_000


async def test_first_byte_deadline_is_shorter_than_the_total() -> None:
    deadlines = Deadlines(total_ms=60_000, first_byte_ms=200)
    async with peer(_silent) as there, pushing() as client:
        outcome = await post(client, there.target(), deadlines=deadlines)
        assert isinstance(outcome, Failure)
        assert outcome.kind is FailureKind.TIMEOUT
        assert 200 <= outcome.duration_ms < 30_000


async def test_first_byte_deadline_ends_with_the_first_byte() -> None:
    async def script(link: Link) -> None:
        await link.request()
        await link.write(b"HTTP/1.1 200 OK\r\n")
        await asyncio.sleep(0.6)
        await link.write(b"Content-Length: 0\r\n\r\n")

    async with peer(script) as there, pushing() as client:
        outcome = await post(client, there.target(), deadlines=Deadlines(total_ms=10_000, first_byte_ms=300))
        assert isinstance(outcome, Answer)


async def test_nobody_listening_is_a_connect_failure() -> None:
    async with peer(_silent) as there:
        target = there.target()
    async with pushing() as client:
        outcome = await post(client, target)
        assert isinstance(outcome, Failure)
        assert (outcome.kind, outcome.message) == (FailureKind.CONNECT, "no connection: Connection refused")


async def test_request_arrives_as_it_was_given() -> None:
    async def script(link: Link) -> None:
        while True:
            await link.request()
            await link.write(OK)

    async with peer(script) as there, pushing() as client:
        for size in (0, 1, 70_000, 256 * 1024):
            await answer(client, there.target(path="/a?b=c"), b"z" * size)
        assert [len(body) for _, body in there.requests] == [0, 1, 70_000, 256 * 1024]
        assert there.requests[0][0].startswith(b"POST /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:")
        assert there.accepted == 1


async def test_early_answer_to_a_large_body_does_not_leave_the_rest_to_the_next_request() -> None:
    async def script(link: Link) -> None:
        await link.reader.readuntil(b"\r\n\r\n")
        await link.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await link.until_closed()

    async with peer(script) as there, pushing() as client:
        for number in (1, 2):
            outcome = await post(client, there.target(), b"z" * 20_000_000, PATIENT)
            assert isinstance(outcome, Answer)
            assert outcome.status == 413
            assert there.accepted == number
