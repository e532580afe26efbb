"""What a route call tells of a message in a mailbox, written as bytes: the same as the encoder's."""

from hypothesis import given
from hypothesis import strategies as st

from broker.core.explanation import brief
from broker.core.routing import Candidate, Choice, Rule
from schema.agent import Agent
from schema.codec import decode_events, encode
from schema.ids import new_id
from schema.message import Envelope
from workers.placing import Placement, Way, event_of, routed_event

AGENT = Agent(id=new_id(), name="agent")
ROUTE = brief(Choice(AGENT, 0.5, Rule.OWN_SHARD, 2, [Candidate(AGENT.id, 0.25, 0.5)]))


@given(
    st.sampled_from([None, ROUTE, b"{}"]),
    st.sampled_from(["", "gateway-1", 'a"b\\é']),
    st.text(),
    st.integers(0, 2**53),
)
def test_routed_event_has_the_bytes_of_the_encoder(
    route: bytes | None, waiter: str, message_type: str, now_ms: int
) -> None:
    envelope = Envelope(id=new_id(), to_agent_id=AGENT.id, message_type=message_type, round=1)
    placement = Placement(Way.MAILBOX, b"", envelope, AGENT, route=route, waiter=waiter)
    body = encode(envelope)
    event = routed_event(placement, body, now_ms=now_ms)
    assert event == event_of(placement, body, now_ms=now_ms)
    [read] = decode_events(b"[%b]" % event)
    assert (read.id, read.to, read.waiter, bytes(read.message)) == (
        envelope.id,
        AGENT.id,
        waiter or None,
        body,
    )
