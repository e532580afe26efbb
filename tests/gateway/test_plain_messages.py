"""A plain message is what the general way makes of it: taken alike, written alike, shown alike."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.json import decode

from broker.core.barriers import Barriers, Switches
from broker.gateway import plain_messages
from broker.gateway.batch import SendBatchQuery, _Batch
from broker.gateway.errors import error_body
from broker.gateway.publishing import pending_view
from broker.gateway.reading import Faults
from broker.gateway.sending import Origin, check_message, envelope_of
from schema.agent import Agent, AgentStatus, ContactPolicy
from schema.codec import encode
from schema.errors import Rejected
from schema.http import BatchReply, BatchResult
from schema.message import Envelope, SendRequest
from schema.times import from_ms

A_UUID = "01a2016f-4b8f-758f-a3d1-12918915e999"
TO = Agent(id="01a20202-11bd-752d-9043-2b8eb2d2a15c", name="to", signing_secret="x")
_TEXTS = st.text(max_size=6) | st.sampled_from(("task", " a", "a\x7f", "é", "\U0001f600", "x" * 300, '"\\/'))
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": st.none() | st.just(A_UUID),
    "to_agent_id": st.none() | _TEXTS | st.sampled_from(("to", TO.id)),
    "conversation_id": st.none() | _TEXTS,
    "message_type": _TEXTS,
    "priority": st.integers(-1, 12),
    "content": st.dictionaries(_TEXTS, _TEXTS, max_size=3) | st.lists(st.integers(), max_size=2) | st.none(),
    "metadata": st.sampled_from((None, {}, {"max_retries": 3}, [])),
    "requirements": st.none() | st.lists(_TEXTS, max_size=2),
    "expires_at": st.sampled_from((None, "2099-01-01T02:00:00+02:00")),
    "deliver_at": st.sampled_from((None, "2099-01-01T02:00:00+02:00")),
    "reply_to": st.none() | st.just(A_UUID),
    "caused_by": st.none() | st.just(A_UUID),
}
_PLAIN = st.fixed_dictionaries(
    {"to_agent_id": st.sampled_from(("to", TO.id))},
    optional={
        "priority": st.integers(1, 10),
        "message_type": st.sampled_from(("task", "é", 'a"\\b', "\U0001f600")),
        "conversation_id": st.none() | st.sampled_from(("c", 'é"\\', "x" * 100)),
        "content": st.dictionaries(_TEXTS, st.integers() | _TEXTS, max_size=3),
    },
)
_SENDERS = st.none() | st.just(A_UUID)
_MOMENTS = st.integers(0, 4_000_000_000_000)


def services(**more: Any) -> Any:
    """What is asked of a gateway, in memory."""
    return SimpleNamespace(
        agents=SimpleNamespace(remembered={"to": TO, TO.id: TO}.get),
        contacts=SimpleNamespace(takes_all=lambda _: True),
        gatekeeper=SimpleNamespace(barriers=Barriers()),
        durability=None,
        **more,
    )


def request_of(body: dict[str, Any]) -> tuple[SendRequest, str]:
    request = decode(json.dumps(body).encode(), type=SendRequest)
    return request, str(request.content, "utf-8")


def envelope_with(message_id: str, request: SendRequest, sender: str | None, at_ms: int) -> Envelope:
    origin = Origin(id=message_id, from_agent_id=sender, to_agent_id=TO.id, now=from_ms(at_ms))
    return envelope_of(request, origin)


@given(_PLAIN | st.fixed_dictionaries({}, optional=_FIELDS), _SENDERS, _MOMENTS)
def test_what_is_written_is_what_the_encoder_writes(
    body: dict[str, Any], sender: str | None, at_ms: int
) -> None:
    request, content = request_of(body)
    plain = plain_messages.take(services(), request, content, sender, {})
    if plain is None:
        return
    moment = encode(from_ms(at_ms)).decode()
    faults = Faults()
    check_message(request, faults)
    faults.raise_if_any()
    envelope = envelope_with(plain[0], request, sender, at_ms)
    assert plain[1] == TO.id
    assert plain_messages.travelling(plain, moment) == encode(envelope)
    for durability in (None, "buffered"):
        view = pending_view(envelope)
        view.durability = UNSET if durability is None else durability
        assert plain_messages.shown(plain, moment, durability) == encode(view)


@given(_PLAIN, _SENDERS)
def test_plain_messages_are_taken(body: dict[str, Any], sender: str | None) -> None:
    request, content = request_of(body)
    assert plain_messages.take(services(), request, content, sender, {}) is not None


def _killed(world: Any) -> None:
    world.gatekeeper.barriers.switch(Switches(agents=frozenset(["anybody"])))


def _rated(world: Any) -> None:
    world.contacts.takes_all = lambda _: False


def _unknown(world: Any) -> None:
    world.agents.remembered = {}.get


def _recipient(**more: Any) -> Callable[[Any], None]:
    def change(world: Any) -> None:
        world.agents.remembered = {"to": Agent(id=TO.id, name="to", signing_secret="x", **more)}.get

    return change


@pytest.mark.parametrize(
    "change",
    [
        _killed,
        _rated,
        _unknown,
        _recipient(status=AgentStatus.DISABLED),
        _recipient(contact_policy=ContactPolicy.CONTACTS_ONLY),
        _recipient(contact_policy=ContactPolicy.CLOSED),
    ],
    ids=["barrier", "rate", "unknown", "disabled", "contacts only", "closed"],
)
def test_who_may_not_get_everything_is_asked_about_the_general_way(change: Callable[[Any], None]) -> None:
    world = services()
    request, content = request_of({"to_agent_id": "to"})
    assert plain_messages.take(world, request, content, None, {}) is not None
    change(world)
    assert plain_messages.take(world, request, content, None, {}) is None


@given(st.lists(st.booleans(), min_size=1, max_size=4), st.sampled_from((None, "buffered")))
def test_the_reply_to_a_batch_is_what_the_encoder_writes(taken: list[bool], durability: str | None) -> None:
    world: Any = SimpleNamespace(
        gatekeeper=SimpleNamespace(counts=lambda _: False), durability=durability, now_ms=lambda: 0
    )
    call: Any = SimpleNamespace(
        services=world, principal=SimpleNamespace(metered=None), query=SendBatchQuery()
    )
    batch, results = _Batch(call), []
    for is_taken in taken:
        if is_taken:
            batch.note(None, A_UUID, (TO.id, 5, b"{}"))
            results.append(BatchResult(id=A_UUID))
        else:
            batch.refuse(error := Rejected('a "word"', field="é"))
            results.append(BatchResult(error=error_body(error)))
    assert batch.reply() == encode(BatchReply(results=results, durability=durability))
