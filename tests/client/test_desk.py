"""The desk by itself: each message once, so many at a time, and what of it is told."""

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.client import desk as desk_module
from broker.client.desk import Desk
from broker.client.incoming import Arrival, answer_id
from broker.client.outcomes import (
    REASON_CHARS_MAX,
    Again,
    Failed,
    Outcome,
    Processed,
    Retry,
    of_error,
    of_value,
)
from schema.errors import Unavailable


def arrival(message_id: str = "1", **more: object) -> Arrival:
    return Arrival(**({"id": message_id, "message_type": "task"} | more))  # type: ignore[arg-type]  # a test's fields


class Told:
    """Notes what the broker was told; fails as often as it is asked to."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, Outcome]] = []
        self.failures = 0

    async def __call__(self, message: Arrival, outcome: Outcome) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        self.outcomes.append((message.id, outcome))


async def settled(desk: Desk) -> None:
    async with asyncio.timeout(10):
        while desk.in_hand:
            desk.changed.clear()
            await desk.changed.wait()


async def test_a_message_in_hand_is_taken_once() -> None:
    runs, told = [], Told()
    go_on = asyncio.Event()

    async def work(message: Arrival, attempt: int) -> Outcome:
        runs.append(attempt)
        await go_on.wait()
        return Processed("done")

    desk = Desk(work, concurrency=3)
    for _ in range(3):
        desk.take(arrival(), told)
        await asyncio.sleep(0)
    assert desk.in_hand == desk.active == 1
    go_on.set()
    await settled(desk)
    assert runs == [1]
    assert told.outcomes == [("1", Processed("done"))]


async def test_a_handled_message_that_comes_again_is_told_again_and_not_worked_on() -> None:
    runs, told = 0, Told()

    async def work(message: Arrival, attempt: int) -> Outcome:
        nonlocal runs
        runs += 1
        return Failed("for good")

    desk = Desk(work, concurrency=1)
    told.failures = 1
    desk.take(arrival(), told)
    await settled(desk)
    assert told.outcomes == []
    desk.take(arrival(), told)
    await settled(desk)
    assert (runs, told.outcomes) == (1, [("1", Failed("for good"))])


async def test_what_is_to_come_again_rests_without_taking_room_and_is_not_told() -> None:
    told, attempts = Told(), []

    async def work(message: Arrival, attempt: int) -> Outcome:
        attempts.append(attempt)
        return Again(0.01) if attempt < 3 else Processed()

    desk = Desk(work, concurrency=1)
    desk.take(arrival(), told)
    await settled(desk)
    assert attempts == [1, 2, 3]
    assert told.outcomes == [("1", Processed())]


async def test_a_desk_that_drains_lets_go_of_what_rests() -> None:
    told, first = Told(), asyncio.Event()

    async def work(message: Arrival, attempt: int) -> Outcome:
        first.set()
        return Again(3_600)

    desk = Desk(work, concurrency=1)
    desk.take(arrival(), told)
    await first.wait()
    await desk.drain(10)
    desk.take(arrival("2"), told)
    assert (desk.in_hand, told.outcomes) == (0, [])


async def test_a_desk_that_drains_begins_nothing_more() -> None:
    told, begun, go_on = Told(), asyncio.Event(), asyncio.Event()

    async def work(message: Arrival, attempt: int) -> Outcome:
        begun.set()
        await go_on.wait()
        return Processed()

    desk = Desk(work, concurrency=1)
    for message_id in ("1", "2"):
        desk.take(arrival(message_id), told)
    await begun.wait()
    asyncio.get_running_loop().call_soon(go_on.set)
    await desk.drain(10)
    assert (told.outcomes, desk.in_hand) == ([("1", Processed())], 0)


async def test_what_does_not_end_in_time_is_ended_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    told, begun, ended = Told(), asyncio.Event(), []

    async def work(message: Arrival, attempt: int) -> Outcome:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(message.id)
        raise AssertionError

    desk = Desk(work, concurrency=1)
    desk.take(arrival(), told)
    await begun.wait()
    await desk.drain(0.01)
    await desk.close()
    assert (ended, told.outcomes, desk.in_hand) == (["1"], [], 0)
    assert "will come again" in caplog.text


async def test_only_so_many_outcomes_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "REMEMBERED_MAX", 2)
    runs, told = [], Told()

    async def work(message: Arrival, attempt: int) -> Outcome:
        runs.append(message.id)
        return Processed()

    desk = Desk(work, concurrency=1)
    for message_id in ("1", "2", "3", "3", "1"):
        desk.take(arrival(message_id), told)
        await settled(desk)
    assert runs == ["1", "2", "3", "1"]


async def test_a_fault_in_the_telling_costs_one_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def work(message: Arrival, attempt: int) -> Outcome:
        return Processed()

    async def tell(message: Arrival, outcome: Outcome) -> None:
        raise ZeroDivisionError

    desk, told = Desk(work, concurrency=1), Told()
    desk.take(arrival("1"), tell)
    desk.take(arrival("2"), told)
    await settled(desk)
    assert told.outcomes == [("2", Processed())]


# --- what handlers' ends mean -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "answers", "outcome"),
    [
        (None, True, Processed(None, None)),
        ({"a": 1}, True, Processed({"a": 1}, {"a": 1})),
        ([1], True, Processed([1], {"result": [1]})),
        ({"a": 1}, False, Processed({"a": 1}, None)),
    ],
)
def test_a_returned_value_is_result_and_answer(value: object, answers: bool, outcome: Outcome) -> None:
    assert of_value(value, answers=answers) == outcome


def test_a_value_that_is_no_json_fails_the_message() -> None:
    outcome = of_value(object(), answers=True)
    assert isinstance(outcome, Failed)
    assert "no JSON" in outcome.reason


@given(st.text())
def test_a_reason_is_text_the_broker_takes(text: str) -> None:
    outcome = of_error(ValueError(text))
    assert isinstance(outcome, Failed)
    assert len(outcome.reason) <= REASON_CHARS_MAX
    assert "\x00" not in outcome.reason
    assert outcome.reason.startswith("ValueError")


def test_retry_is_no_failure() -> None:
    assert of_error(Retry(after=3)) == Again(3)
    assert of_error(Retry(after=-1)) == Again(0)


@pytest.mark.parametrize(
    ("fields", "wants"),
    [
        ({"from_agent_id": "a"}, True),
        ({}, False),
        ({"from_agent_id": "a", "reply_to": "m"}, False),
        ({"from_agent_id": "a", "message_type": "response"}, False),
        ({"from_agent_id": "a", "message_type": "error"}, False),
        ({"from_agent_id": "a", "metadata": {"automatic": True}}, False),
    ],
)
def test_only_who_asked_something_is_answered(fields: dict[str, object], wants: bool) -> None:
    assert arrival(**fields).wants_answer is wants


def test_ids_of_answers_follow_from_the_message_and_differ() -> None:
    assert answer_id("m", 0) == answer_id("m", 0)
    assert len({answer_id("m", 0), answer_id("m", 1), answer_id("n", 0)}) == 3
