"""Cutting requests out of bytes, however they arrive, and checking their signatures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bench.requests import cut, header, is_signed, path_of, sent_ns_of
from broker.transport.signature import Signer, new_secret


def push(body: bytes, *headers: bytes, path: bytes = b"/hook") -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"host: x", *headers, b"content-length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def test_pipelined_requests_are_cut_one_by_one() -> None:
    data = push(b"one") + push(b"") + push(b"three", path=b"/other")
    bodies, start = [], 0
    while (request := cut(data, start)) is not None:
        bodies.append((path_of(request.head), request.body))
        start = request.stop
    assert bodies == [(b"/hook", b"one"), (b"/hook", b""), (b"/other", b"three")]
    assert start == len(data)


@given(st.binary(max_size=50), st.data())
def test_no_proper_beginning_of_a_request_is_taken_for_one(body: bytes, data: st.DataObject) -> None:
    whole = push(body)
    end = data.draw(st.integers(0, len(whole) - 1))
    assert cut(whole[:end], 0) is None
    request = cut(whole, 0)
    assert request is not None
    assert (request.body, request.stop) == (body, len(whole))


@pytest.mark.parametrize("spelled", [b"Webhook-Id: abC", b"webhook-id:abC", b"WEBHOOK-ID:   abC  "])
def test_header_names_have_no_case_but_values_do(spelled: bytes) -> None:
    assert header(b"POST / HTTP/1.1\r\nhost: x\r\n" + spelled, b"webhook-id") == b"abC"


def test_missing_header_is_none() -> None:
    assert header(b"POST / HTTP/1.1\r\nhost: x", b"webhook-id") is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"content":{"sent_ns":123,"x":1}}', 123),
        (b'{"content":{"sent_ns": 9}}', 9),
        (b'{"content":{"sent_ns":"no"}}', None),
        (b"{}", None),
    ],
)
def test_time_of_sending_is_read_from_the_body(body: bytes, expected: int | None) -> None:
    assert sent_ns_of(body) == expected


def signed(secret: str, body: bytes, *, at_s: int, webhook_id: str = "msg-1") -> bytes:
    signature = Signer(secret).sign(webhook_id, at_s, body)
    return b"POST / HTTP/1.1\r\nwebhook-id: %b\r\nwebhook-timestamp: %d\r\nwebhook-signature: %b" % (
        webhook_id.encode(),
        at_s,
        signature,
    )


def test_signature_of_the_product_is_recognised() -> None:
    secret = new_secret()
    assert is_signed(secret, signed(secret, b"{}", at_s=1000), b"{}", now_s=1003)


@pytest.mark.parametrize(
    ("body", "now_s"), [(b'{"forged":1}', 1000), (b"{}", 1301), (b"{}", 699)], ids=["body", "old", "future"]
)
def test_signature_of_something_else_or_another_time_is_not(body: bytes, now_s: int) -> None:
    secret = new_secret()
    assert not is_signed(secret, signed(secret, b"{}", at_s=1000), body, now_s=now_s)


def test_unsigned_request_is_not_signed() -> None:
    assert not is_signed(new_secret(), b"POST / HTTP/1.1\r\nwebhook-id: a", b"{}", now_s=0)
