"""A batch that is read by one decode means what each of its messages means by itself."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from broker.gateway import batch
from schema.codec import encode
from schema.errors import BrokerError
from schema.message import SendRequest

A_UUID = "01a2016f-4b8f-758f-a3d1-12918915e999"
_TEXTS = st.text(max_size=6) | st.sampled_from(
    ("to", A_UUID, A_UUID.upper(), " a", "x" * 300, "", "\x00", "\ud800")
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
_OBJECTS = st.dictionaries(_TEXTS, _VALUES, max_size=3) | st.sampled_from(
    (
        {"requirements": ["a", "b"]},
        {"retry_policy": "fixed", "max_retries": -1},
        {"timeout": "x"},
        {"a": [[[]]] * 20},
        json.loads('{"a":' * 30 + "1" + "}" * 30),
        {str(number): number for number in range(1_990)},
    )
)
_TIMES = st.sampled_from((None, "2099-01-01T02:00:00+02:00", "0001-01-01T00:00:00+10:00", "tomorrow"))
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": st.none() | _TEXTS,
    "from_agent_id": st.none() | _TEXTS,
    "to_agent_id": st.none() | _TEXTS | st.integers(),
    "conversation_id": st.none() | _TEXTS,
    "message_type": _TEXTS,
    "priority": st.integers(0, 11) | st.just(5.0),
    "content": _OBJECTS | _VALUES,
    "metadata": _OBJECTS | _VALUES,
    "requirements": st.none() | st.lists(_TEXTS, max_size=3),
    "expires_at": _TIMES,
    "deliver_at": _TIMES,
    "reply_to": st.none() | _TEXTS,
    "caused_by": st.none() | _TEXTS,
    "unknown": _VALUES,
}
_PLAIN = st.fixed_dictionaries(
    {
        "to_agent_id": st.sampled_from(("to", A_UUID)),
        "content": st.dictionaries(st.text("ab é"), st.integers()),
    },
    optional={"priority": st.integers(1, 10), "metadata": st.just({"max_retries": 3})},
)
_MESSAGES = st.fixed_dictionaries({}, optional=_FIELDS) | _PLAIN


def read_one_by_one(body: bytes) -> list[Any]:
    return [outcome(lambda part=part: batch._read(part)) for part in batch._split(body)]


def outcome(read: Any) -> Any:
    try:
        request: SendRequest = read()
    except BrokerError as error:
        return (
            error.code,
            error.message,
            error.field,
            [(fault.field, fault.message) for fault in error.faults],
        )
    return {
        name: bytes(value) if name in ("content", "metadata") else value
        for name, value in asdict(request).items()
    }


@given(st.lists(_PLAIN, min_size=1, max_size=5) | st.lists(_MESSAGES, min_size=1, max_size=3), st.booleans())
def test_messages_read_together_are_those_read_one_by_one(messages: list[Any], escaped: bool) -> None:
    body = json.dumps(messages, ensure_ascii=escaped).encode(errors="surrogatepass")
    read = batch._read_together(body)
    if read is not None:
        requests, contents = read
        assert contents == [bytes(request.content).decode() for request in requests]
        together = [outcome(lambda request=request: batch._reader.checked(request)) for request in requests]
        assert together == read_one_by_one(body)


@given(st.lists(_PLAIN, min_size=1, max_size=5))
def test_plain_messages_are_read_together(messages: list[Any]) -> None:
    assert batch._read_together(encode(messages)) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[{}",
        b'[{"to_agent_id":"to"}',
        b'{"to_agent_id":"to"}\n{"to_agent_id":"to"}',
        b'["text"]',
        b"[" + b'{"to_agent_id":"to"},' * 1_000 + b"{}]",
        b'[{"content":{"a":"\xff"}}]',
        rb'[{"content":{"a":"\u0000"}}]',
        rb'[{"content":{"a":"\ud800"}}]',
        b'[{"content":{"a":1e999}}]',
        b'[{"content":{"a":' + b"1" * 400 + b"}}]",
        b'[{"content":' + b"[" * 40 + b"]" * 40 + b"}]",
        b'[{"content":{' + b",".join(b'"%d":1' % number for number in range(2_001)) + b"}}]",
        b'[{"beside":' + b"[" * 40 + b"]" * 40 + b"}]",
        b"[" * 100_000,
        b"[" + b"{}," * 50_000 + b"{}]",
        b'[{"content":{"a":"' + b"x" * 262_144 + b'"}}]',
        b"[null]",
        b'[{"priority":"5"}]',
    ],
    ids=range(20),
)
def test_whatever_has_to_be_looked_at_is_read_one_by_one(body: bytes) -> None:
    assert batch._read_together(body) is None
