"""The response reader as a pure machine: however bytes are cut, it comes to the same result."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from broker.transport.outcome import FailureKind
from broker.transport.response import ResponseReader, recognise
from schema.limits import RESPONSE_HEAD_KNOWN_BYTES_MAX, RESPONSE_HEADS_KNOWN_MAX

STREAMS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n",
    b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 429 T\r\nRetry-After: 7\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 503 U\r\nretry-after: soon\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
    b"HTTP/1.0 500 E\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
]

Result = tuple[FailureKind | None, bool, int, bytes, str | None, bool]


def result_of(pieces: list[bytes]) -> Result:
    reader = ResponseReader()
    kind = None
    for piece in pieces:
        trouble = reader.feed(piece)
        if trouble is not None:
            kind = trouble.kind
            break
        if reader.complete:
            break
    return kind, reader.complete, reader.status, reader.body, reader.retry_after, reader.reusable


def cut(stream: bytes, places: set[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if place < len(stream)), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@given(st.sampled_from(STREAMS), st.sets(st.integers(1, 130)))
def test_response_means_the_same_however_it_is_cut(stream: bytes, places: set[int]) -> None:
    assert result_of(cut(stream, places)) == result_of([stream])


@given(st.sampled_from(STREAMS), st.data())
def test_response_cut_short_is_never_complete(stream: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(stream) - 1))
    kind, complete, *_ = result_of([stream[:length]])
    assert (kind, complete) == (None, False)


STATUS_LINES = ["HTTP/1.1 200 OK", "HTTP/1.1 202 A", "HTTP/1.1 204 No", "HTTP/1.0 200 OK", "HTTP/1.1 100 C",
                "HTTP/1.1 404 N", "HTTP/1.1 200"]  # fmt: skip
FIELDS = ["Content-Length: 2", "Content-Length: 02", "content-length:0", "Content-Length: 9", "Date: now",
          "Transfer-Encoding: chunked", "Connection: close", "Connection: keep-alive", "Upgrade: h2c",
          "x"]  # fmt: skip
BODIES = [b"", b"{}", b"0\r\n\r\n", b"2\r\n{}\r\n0\r\n\r\n", b"{}x", b"ok\r\n\r\n{}",
          b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"\r\n", b"123456789"]  # fmt: skip
HEADS = st.builds(
    lambda line, fields, end: ("\r\n".join([line, *fields]) + end).encode(),
    st.sampled_from(STATUS_LINES),
    st.lists(st.sampled_from(FIELDS), max_size=3),
    st.sampled_from(["\r\n\r\n", "\r\n\r\n", "\n\n", "\r\n"]),
)


@given(HEADS, st.lists(st.sampled_from(BODIES), min_size=2, max_size=6))
def test_what_is_recognised_is_what_the_parser_reads(head: bytes, bodies: list[bytes]) -> None:
    result_of([head + bodies[0]])
    for body in bodies:
        found = recognise(head + body)
        read = result_of([head + body])
        if found is not None:
            assert read == (None, True, *found, None, True)


def test_plain_response_is_recognised_once_its_head_is_known() -> None:
    head = b"HTTP/1.1 200 OK\r\nServer: one-of-a-kind\r\nContent-Length: 2\r\n\r\n"
    assert recognise(head + b"{}") is None
    result_of([head + b"{}"])
    assert recognise(head + b"[]") == (200, b"[]")
    assert [recognise(head + body) for body in (b"", b"{", b"{} ")] == [None] * 3


def test_a_head_that_has_not_ended_is_not_recognised() -> None:
    head = b"HTTP/1.1 200 OK\r\nServer: one-of-another-kind\r\nContent-Length: 0"
    result_of([head + b"\r\n\r\n"])
    assert recognise(head + b"\r\n\r\n") == (200, b"")
    assert recognise(head) is None


def test_response_in_pieces_or_with_a_long_head_is_not_remembered() -> None:
    for head in (b"A: pieces", b"A: " + b"a" * RESPONSE_HEAD_KNOWN_BYTES_MAX):
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + head + b"\r\n\r\n{}"
        result_of(cut(whole, {40} if b"pieces" in head else set()))
        assert recognise(whole) is None


def test_heads_remembered_are_bounded() -> None:
    heads = [
        b"HTTP/1.1 200 OK\r\nX: %d\r\nContent-Length: 0\r\n\r\n" % n
        for n in range(2 * RESPONSE_HEADS_KNOWN_MAX)
    ]
    for head in heads:
        result_of([head])
    assert 0 < sum(recognise(head) is not None for head in heads) <= RESPONSE_HEADS_KNOWN_MAX


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_no_bytes_break_the_reader(pieces: list[bytes]) -> None:
    result_of(pieces)
    result_of([b"HTTP/1.1 200 OK\r\n", *pieces])
    result_of([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *pieces])


@given(st.lists(st.sampled_from(STREAMS[:4]), min_size=2, max_size=6))
def test_one_response_leaves_no_trace_in_the_next(streams: list[bytes]) -> None:
    reader = ResponseReader()
    for stream in streams:
        assert reader.feed(stream) is None
        seen = (None, reader.complete, reader.status, reader.body, reader.retry_after, reader.reusable)
        assert seen == result_of([stream])
        reader.reset()


def test_end_of_stream_completes_only_a_body_without_a_length() -> None:
    for head, complete in (
        (b"HTTP/1.1 200 OK\r\n\r\nab", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", False),
        (b"HTTP/1.1 200 OK\r\nX: y", False),
    ):
        reader = ResponseReader()
        assert reader.feed(head) is None
        reader.end()
        assert reader.complete is complete
