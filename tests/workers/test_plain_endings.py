"""The ending written as bytes is the one the encoder writes, for every message and answer it is used for."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from broker.core.breaker import Breaker
from broker.transport.client import Answer
from broker.transport.signature import new_secret
from schema.agent import Agent
from schema.codec import decode_events, encode
from schema.ids import new_id
from schema.limits import RESPONSE_KEPT_BYTES_MAX
from schema.message import Envelope, Lane, Status
from workers.delivery.endpoint import Endpoint
from workers.delivery.items import Item, Mailbox, item_of
from workers.delivery.outcome import conclude
from workers.delivery.plain import plain_event

AGENT = Agent(id=new_id(), name="a", endpoint="http://127.0.0.1:9/", signing_secret=new_secret())
MAILBOX = Mailbox(Endpoint(AGENT, Breaker()), f"ab:{{0}}:inbox:{AGENT.id}:normal", Lane.NORMAL)
ROUTE = encode({"chosen": AGENT.id, "candidates": [{"score": 0.5}]})
NOW_MS = 1_763_779_000_000

BODIES = st.one_of(
    st.sampled_from(
        [b"", b"{}", b'{"status":"processed"}', b'{"reply":{"a":1}}', b'"status" of "reply"', b"\xff\x00"]
    ),
    st.binary(max_size=60),
    st.text(max_size=40).map(str.encode),
    st.just(b"x" * (RESPONSE_KEPT_BYTES_MAX + 5)),
)
ANSWERS = st.builds(
    Answer,
    st.integers(190, 310),
    st.none(),
    BODIES,
    st.sampled_from([0, 1, 14_999]),
    st.just(14_999),
)


@st.composite
def items(draw: st.DrawFn) -> Item:
    envelope = Envelope(
        id=new_id(),
        from_agent_id=draw(st.sampled_from([None, AGENT.id])),
        created_at=datetime.now(UTC),
        content=Raw(encode({"text": draw(st.text(max_size=20))})),
    )
    if draw(st.booleans()):
        envelope.round = 3
    item = item_of(
        MAILBOX, "1-1", envelope, encode(envelope), draw(st.sampled_from(["", "gateway-1", 'a"b\\é']))
    )
    item.route = draw(st.sampled_from([None, ROUTE]))
    item.announced = draw(st.booleans())
    item.attempts = draw(st.integers(0, 3))
    item.started_ms = NOW_MS - 5
    return item


@given(items(), ANSWERS)
def test_plain_event_has_the_bytes_of_the_encoder(item: Item, answer: Answer) -> None:
    found = plain_event(item, answer, now_ms=NOW_MS)
    if found is not None:
        outcome = conclude(item, answer, agent=AGENT, now_ms=NOW_MS, chance=0.5, scale=1.0)
        assert found == encode(outcome.event)
        assert (outcome.due_ms, outcome.healthy, outcome.event.status) == (None, True, Status.DELIVERED)


@given(items(), st.sampled_from([b"", b"{}", b"thank you"]))
def test_short_answer_that_says_nothing_is_plain(item: Item, body: bytes) -> None:
    event = plain_event(item, Answer(202, None, body, 7, 7), now_ms=NOW_MS)
    assert event is not None
    [read] = decode_events(b"[%b]" % event)
    assert (read.id, read.to, read.status) == (item.id, AGENT.id, Status.DELIVERED)


@given(items(), st.sampled_from([b'{"status":"processed"}', b'{"reply":{}}', b'{"reply":{},"status":"x"}']))
def test_answer_that_may_say_something_is_not_plain(item: Item, body: bytes) -> None:
    assert plain_event(item, Answer(200, None, body, 7, 7), now_ms=NOW_MS) is None
