"""Connections: kept, used again, closed in time, bounded in number; every post ends exactly once."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from peer import (
    HASTY,
    LOOPBACK,
    OK,
    PATIENT,
    Link,
    Outcomes,
    Script,
    answer,
    head_for,
    kind_of,
    peer,
    post,
    pushing,
)

from broker.transport.client import Answer, Deadlines, Failure, FailureKind, PushClient, Target
from schema import limits


async def serving(link: Link) -> None:
    while True:
        await link.request()
        await link.write(OK)


async def silent(link: Link) -> None:
    await link.until_closed()


async def test_connection_is_used_again() -> None:
    async with peer(serving) as there, pushing() as client:
        for _ in range(20):
            await answer(client, there.target())
        assert there.accepted == 1
        assert client.connections == 1


async def test_no_two_requests_share_a_connection_at_a_time() -> None:
    at_once = asyncio.Event()

    async def script(link: Link) -> None:
        while True:
            await link.request()
            async with link.peer.changed:
                link.peer.changed.notify_all()
            await at_once.wait()
            await link.write(OK)

    async with peer(script) as there, pushing() as client:
        outcomes = [post(client, there.target()) for _ in range(8)]
        await there.until(lambda it: len(it.requests) == 8)
        assert (there.accepted, client.in_flight) == (8, 8)
        at_once.set()
        assert all(isinstance(outcome, Answer) for outcome in await asyncio.gather(*outcomes))
        assert client.in_flight == 0
        await answer(client, there.target())
        assert there.accepted == 8


async def test_post_from_within_done_uses_the_same_connection() -> None:
    async with peer(serving) as there, pushing() as client:
        target = there.target()
        finished = asyncio.get_running_loop().create_future()
        count = 0

        def again(target: Target, outcome: Answer | Failure) -> None:
            nonlocal count
            assert isinstance(outcome, Answer)
            count += 1
            if count == 50:
                finished.set_result(None)
            else:
                client.post(target, head_for(target, b"x"), b"x", PATIENT, again, target)

        client.post(target, head_for(target, b"x"), b"x", PATIENT, again, target)
        await finished
        assert there.accepted == 1


async def test_origins_do_not_share_connections() -> None:
    async with peer(serving) as one, peer(serving) as other, pushing() as client:
        for _ in range(3):
            await answer(client, one.target())
            await answer(client, other.target())
        assert (one.accepted, other.accepted) == (1, 1)


async def test_stale_connection_is_replaced_once_without_the_caller_noticing() -> None:
    async def one_answer_per_connection(link: Link) -> None:
        await link.request()
        await link.write(OK)
        # Takes the next request, and closes instead of answering: the race of keep-alive made certain.
        await link.request()

    async with peer(one_answer_per_connection) as there, pushing() as client:
        await answer(client, there.target())
        await answer(client, there.target())
        assert there.accepted == 2
        assert len(there.requests) == 3


async def test_stale_connection_is_replaced_only_once() -> None:
    async def only_the_first(link: Link) -> None:
        await link.request()
        if link.number == 1:
            await link.write(OK)
            await link.request()
        link.reset()

    async with peer(only_the_first) as there, pushing() as client:
        await answer(client, there.target())
        outcomes = Outcomes()
        client.post(there.target(), head_for(there.target(), b""), b"", PATIENT, Outcomes.note, outcomes)
        assert kind_of(await outcomes.first) is FailureKind.RESET
        assert there.accepted == 2
        assert len(outcomes) == 1


async def test_used_connection_that_breaks_within_a_response_is_not_retried() -> None:
    async def script(link: Link) -> None:
        await link.request()
        await link.write(OK)
        await link.request()
        await link.write(b"HTTP/1.1 2")

    async with peer(script) as there, pushing() as client:
        await answer(client, there.target())
        assert kind_of(await post(client, there.target())) is FailureKind.RESET
        assert there.accepted == 1


async def test_connection_closed_by_the_peer_while_idle_is_forgotten() -> None:
    async def script(link: Link) -> None:
        await link.request()
        await link.write(OK)

    async with peer(script) as there, pushing() as client:
        await answer(client, there.target())
        await there.until(lambda it: it.closed == 1)
        await answer(client, there.target())
        assert there.accepted == 2
        assert len(there.requests) == 2


async def test_bytes_on_an_idle_connection_close_it() -> None:
    speak = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        await link.write(OK)
        await speak.wait()
        await link.write(b"HTTP/1.1 408 Too Slow\r\nContent-Length: 0\r\n\r\n")
        await link.until_closed()

    async with peer(script) as there, pushing() as client:
        await answer(client, there.target())
        speak.set()
        await there.until(lambda it: it.closed == 1)
        assert (await answer(client, there.target())).status == 200


async def test_idle_connections_are_closed_after_keep_alive() -> None:
    async with peer(serving) as there, pushing(keep_alive_ms=100) as client:
        await answer(client, there.target())
        await there.until(lambda it: it.closed == 1)
        assert client.connections == 0
        await answer(client, there.target())
        assert there.accepted == 2


async def test_old_connection_is_closed_even_when_it_is_never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.transport.client.CONNECTION_AGE_MS_MAX", 50)
    async with peer(serving) as there, pushing() as client:
        while there.accepted < 3:
            await answer(client, there.target())
        assert len(there.requests) > 3


async def test_idle_connections_make_room_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.transport.client.CONNECTIONS_EVICTED_AT_ONCE", 1)
    async with (
        peer(serving) as a,
        peer(serving) as b,
        peer(serving) as c,
        pushing(connections_max=2) as client,
    ):
        await answer(client, a.target())
        await asyncio.sleep(0.002)  # the order of idle times is in milliseconds
        await answer(client, b.target())
        await answer(client, c.target())
        assert client.connections == 2
        await a.until(lambda it: it.closed == 1)
        await answer(client, b.target())
        assert (b.accepted, b.closed) == (1, 0)


async def test_posts_wait_for_a_connection_when_all_are_busy() -> None:
    async with peer(serving) as a, peer(serving) as b, pushing(connections_max=2) as client:
        outcomes = [post(client, there.target()) for there in (a, b) * 20]
        assert client.connections == 2
        assert all(isinstance(outcome, Answer) for outcome in await asyncio.gather(*outcomes))
        assert client.connections <= 2


async def test_waiting_post_times_out_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.transport.client.PUSHES_WAITING_MAX", 1)
    async with peer(silent) as there, pushing(connections_max=1) as client:
        busy = post(client, there.target())
        waiting = post(client, there.target(), deadlines=HASTY)
        refused = post(client, there.target())
        assert kind_of(await refused) is FailureKind.CONNECT
        outcome = await waiting
        assert kind_of(outcome) is FailureKind.TIMEOUT
        assert 300 <= outcome.duration_ms < PATIENT.total_ms
        assert not busy.done()
    assert kind_of(await busy) is FailureKind.CANCELLED


async def test_waiting_post_starts_when_a_dial_has_failed() -> None:
    async with peer(serving) as there:
        nobody = there.target()
    async with peer(serving) as there, pushing(connections_max=1) as client:
        refused, waiting = post(client, nobody), post(client, there.target())
        assert kind_of(await refused) is FailureKind.CONNECT
        assert isinstance(await waiting, Answer)


async def test_fault_in_a_callback_harms_nobody_else() -> None:
    reported: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))

    def faulty(_: None, __: Answer | Failure) -> None:
        raise RuntimeError("a bug of the caller")

    async with peer(serving) as there, peer(silent) as mute, pushing() as client:
        client.post(there.target(), head_for(there.target(), b""), b"", PATIENT, faulty, None)
        client.post(mute.target(), head_for(mute.target(), b""), b"", HASTY, faulty, None)
        assert (
            kind_of(await post(client, mute.target(), deadlines=Deadlines(total_ms=600)))
            is FailureKind.TIMEOUT
        )
        await answer(client, there.target())
        assert reported == ["the callback of a push failed"] * 2
        assert there.accepted <= 2


async def test_close_ends_everything_in_flight() -> None:
    async with peer(serving) as there, peer(silent) as mute:
        client = PushClient(policy=LOOPBACK)
        await answer(client, there.target())
        busy = [post(client, mute.target()) for _ in range(3)]
        await mute.until(lambda it: it.accepted == 3)
        dialling = [post(client, mute.target()) for _ in range(3)]
        await client.aclose()
        for outcome in await asyncio.gather(*busy, *dialling):
            assert kind_of(outcome) is FailureKind.CANCELLED
        assert (client.in_flight, client.connections) == (0, 0)
        await there.until(lambda it: it.closed == it.accepted)
        late = await post(client, there.target())
        assert kind_of(late) is FailureKind.CANCELLED
        await client.aclose()


async def test_post_from_within_done_during_close_is_cancelled_too() -> None:
    async with peer(silent) as mute:
        client = PushClient(policy=LOOPBACK)
        target = mute.target()
        last = Outcomes()
        client.post(
            target,
            head_for(target, b""),
            b"",
            PATIENT,
            lambda last, _: client.post(target, head_for(target, b""), b"", PATIENT, Outcomes.note, last),
            last,
        )
        await client.aclose()
        assert kind_of(await last.first) is FailureKind.CANCELLED


MOODS: list[Callable[[Link], Awaitable[bool]]] = []


def mood(action: Callable[[Link], Awaitable[bool]]) -> Callable[[Link], Awaitable[bool]]:
    """One way to treat a request; True when the connection goes on."""
    MOODS.append(action)
    return action


@mood
async def _well(link: Link) -> bool:
    await link.write(OK)
    return True


@mood
async def _well_and_dripping(link: Link) -> bool:
    await link.drip(
        b"HTTP/1.1 503 U\r\nRetry-After: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    )
    return True


@mood
async def _well_and_goes(link: Link) -> bool:
    await link.write(OK)
    return False


@mood
async def _resets(link: Link) -> bool:
    link.reset()
    return False


@mood
async def _stops_half_way(link: Link) -> bool:
    await link.write(OK[:20])
    return False


@mood
async def _with_garbage_behind(link: Link) -> bool:
    await link.write(OK + b"!" + OK)
    return True


@mood
async def _answers_twice_late(link: Link) -> bool:
    await link.write(OK)
    await asyncio.sleep(0)
    await link.write(OK)
    return True


@mood
async def _never(link: Link) -> bool:
    await link.until_closed()
    return False


def moody(dice: random.Random) -> Script:
    async def script(link: Link) -> None:
        while await dice.choice([_well, _well, *MOODS])(link) if await link.request() is not None else False:
            pass

    return script


@pytest.mark.parametrize("seed", range(3))
async def test_every_post_ends_exactly_once_whatever_happens(seed: int) -> None:
    dice = random.Random(seed)
    deadlines = Deadlines(total_ms=400, connect_ms=400, tls_ms=400, first_byte_ms=200)
    async with peer(moody(dice)) as a, peer(moody(dice)) as b, peer(silent) as gone:
        targets = [a.target(), b.target(), gone.target()]
        client = PushClient(policy=LOOPBACK, connections_max=24)
        outcomes = [Outcomes() for _ in range(600)]
        for number, outcome in enumerate(outcomes):
            target = dice.choices(targets, [8, 8, 1])[0]
            body = b"x" * dice.choice([0, 10, 100_000])
            client.post(target, head_for(target, body), body, deadlines, Outcomes.note, outcome)
            if number % 5 == 0:
                await asyncio.sleep(0.001)
        await asyncio.gather(*(outcome.first for outcome in outcomes[:-50]))
        await client.aclose()
        assert (client.in_flight, client.connections) == (0, 0)
        assert [len(outcome) for outcome in outcomes] == [1] * len(outcomes)
        kinds = {kind_of(outcome[0]) for outcome in outcomes}
        assert {None, FailureKind.RESET, FailureKind.TIMEOUT} <= kinds
        assert FailureKind.DENIED not in kinds


def test_bounds_leave_room_for_a_shard() -> None:
    assert limits.CONNECTIONS_OPEN_MAX >= 2 * limits.SHARD_IN_FLIGHT_MAX
