"""Requests and replies without a connection: what is sent, what is read, when it is tried again."""

from decimal import Decimal

import msgspec
import pytest

from broker.client.events import EventReader, StreamEvent
from broker.client.failures import asked_patience_s, error_of, raise_for
from broker.client.request import BACKOFF_S, RETRY_AFTER_S_MAX, TRIES, Listing, Request, pause_s, read
from schema.errors import BrokerError, Conflict, LeaseLost, RateLimited, Rejected, Unavailable
from schema.http import ErrorBody, HealthReply

GET = Request(method="GET", path="/x", reply=HealthReply)
ONCE = Request(method="POST", path="/x", reply=HealthReply, repeatable=False)


def refused(status: int, code: str, *, retry_after: str | None = None) -> BrokerError:
    body = msgspec.json.encode({"error": {"code": code, "message": "no", "field": "f"}})
    with pytest.raises(BrokerError) as raised:
        raise_for(status, body, retry_after=retry_after)
    return raised.value


@pytest.mark.parametrize(
    ("request_", "error", "attempt", "pause"),
    [
        (GET, refused(503, "unavailable"), 0, BACKOFF_S),
        (GET, refused(503, "unavailable"), 1, 4 * BACKOFF_S),
        (GET, refused(503, "unavailable"), TRIES - 1, None),
        (GET, refused(503, "store_unavailable", retry_after="2"), 0, 2),
        (GET, refused(503, "unavailable", retry_after=str(int(RETRY_AFTER_S_MAX) + 1)), 0, None),
        (GET, refused(503, "unavailable", retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), 0, BACKOFF_S),
        (ONCE, refused(503, "unavailable"), 0, None),
        (ONCE, refused(429, "rate_limited", retry_after="3"), 0, 3),
        (GET, refused(429, "rate_limited"), 0, 1),
        (GET, refused(422, "invalid"), 0, None),
        (GET, refused(409, "conflict"), 0, None),
    ],
)
def test_a_call_is_tried_again_only_where_that_is_safe_and_may_help(
    request_: "Request[HealthReply]", error: BrokerError, attempt: int, pause: float | None
) -> None:
    assert pause_s(request_, error, attempt) == pause


def test_errors_carry_what_the_broker_said() -> None:
    limited = refused(429, "rate_limited", retry_after="7")
    assert isinstance(limited, RateLimited)
    assert (limited.retry_after_s, limited.field, limited.code) == (7, "f", "rate_limited")
    assert isinstance(refused(409, "lease_lost"), LeaseLost)
    assert asked_patience_s(refused(503, "unavailable")) is None
    assert isinstance(error_of(418, ErrorBody(code="teapot", message="m")), Rejected)
    with pytest.raises(Conflict, match="without an error of the broker"):
        raise_for(409, b"<html>")


def test_a_query_leaves_out_what_is_none_and_repeats_lists() -> None:
    request = Request(
        method="GET", path="/x", reply=HealthReply, query={"a": None, "b": [1, "c"], "d": True, "e": 0}
    )
    assert request.arguments(1)["params"] == {"b": [1, "c"], "d": "true", "e": 0}


def test_amounts_are_sent_as_exact_numbers() -> None:
    request = Request(method="POST", path="/x", reply=HealthReply, body={"budget_usd": Decimal("0.10")})
    assert request.arguments(1)["content"] == b'{"budget_usd":0.10}'


def test_what_the_broker_may_wait_is_added_to_the_time_out() -> None:
    request = Request(method="GET", path="/x", reply=HealthReply, patience_ms=2_500)
    assert request.arguments(10)["timeout"] == 12.5


def test_a_reply_of_something_else_is_unavailable() -> None:
    assert read(GET, b'{"status":"ok","more":1}') == HealthReply(status="ok")
    with pytest.raises(Unavailable, match="not what this operation answers"):
        read(GET, b"[1]")


def test_pages_are_followed_by_header_or_by_the_reply() -> None:
    class Page(msgspec.Struct):
        items: list[int]
        next_cursor: str | None

    whole: Listing[int] = Listing(first=GET)
    assert whole.page({"x-next-cursor": "c"}, [1, 2]) == ([1, 2], "c")
    assert whole.page({}, [1]) == ([1], None)
    part: Listing[int] = Listing(first=GET, rows="items")
    assert part.page({}, Page([3], "d")) == ([3], "d")
    assert part.request("d").query == {"limit": 100, "cursor": "d"}


def test_events_are_read_and_what_is_none_is_skipped() -> None:
    reader = EventReader()
    lines = [
        "retry: 2000",
        "",
        ": ping",
        "",
        "id: 7",
        "event: message",
        'data: {"a":1}',
        "",
        'data:{"b":2}',
        "",
    ]
    events = [event for line in lines for event in reader.feed(line)]
    assert events == [
        StreamEvent(name="message", id="7", data={"a": 1}),
        StreamEvent(name="message", id=None, data={"b": 2}),
    ]
