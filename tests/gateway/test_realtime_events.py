"""Live sessions as Server-Sent Events."""

from collections.abc import Iterator

import httpx
import pytest
from gateway_rig import Register
from realtime_rig import PATH, Lane, Mailman, listening, mailing, until

from broker.gateway.realtime import session
from broker.gateway.serve import Running
from schema.codec import encode


@pytest.fixture
def mail(gateway: Running, streams_url: str) -> Iterator[Mailman]:
    with mailing(streams_url, gateway.services.settings.shards) as mailman:
        yield mailman


async def test_what_is_not_acknowledged_is_sent_from_the_start_and_what_arrives_as_it_arrives(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    before = [mail.put(agent["id"], priority=priority) for priority in (9, 5, 1)]
    async with listening(gateway, agent["api_key"]) as source:
        assert source.reply.headers["Content-Type"] == "text/event-stream"
        name, _, hello = await source.next()
        assert (name, hello["agent_id"], source.retry) == ("hello", agent["id"], "2000")
        found = await source.messages(3)
        assert [one["id"] for one in found] == [one.id for one in reversed(before)]
        assert found[0]["status"] == "pending"
        assert found[0]["content"] == {"n": 1}
        await until(lambda: gateway.services.realtime.session_of(agent["id"]).idle)  # type: ignore[union-attr]
        later = mail.put(agent["id"])
        assert [one["id"] for one in await source.messages(1)] == [later.id]
    assert mail.left(agent["id"]) == 4


async def test_a_client_that_comes_back_gets_what_came_after_the_last_event_it_saw(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    sent = [mail.put(agent["id"], priority=priority) for priority in (1, 1, 5, 5, 9)]
    async with listening(gateway, agent["api_key"]) as source:
        seen = await source.messages(3)
    later = mail.put(agent["id"], priority=1)
    expected = {one.id for one in (*sent, later)} - {one["id"] for one in seen}
    by_header = {"Last-Event-ID": seen[-1]["event_id"]}
    first_event = seen[0]["event_id"]
    async with listening(gateway, agent["api_key"], headers=by_header, last_event_id=first_event) as source:
        assert {one["id"] for one in await source.messages(3)} == expected
    async with listening(gateway, agent["api_key"], last_event_id=seen[-1]["event_id"]) as source:
        assert {one["id"] for one in await source.messages(3)} == expected
    async with listening(gateway, agent["api_key"]) as source:
        assert len(await source.messages(6)) == 6


@pytest.mark.parametrize(
    "event_id", ["x", "1-1", "0,0", "0,0,0,0", "1-1,2-2,-", "99999999999999999999-0,0,0"]
)
async def test_an_event_id_of_another_make_is_refused(
    http: httpx.AsyncClient, register: Register, event_id: str
) -> None:
    agent = await register("puller")
    reply = await http.get(PATH, params={"agent_id": agent["id"], "last_event_id": event_id})
    assert (reply.status_code, reply.json()["error"]["field"]) == (422, "last_event_id")


async def test_line_breaks_in_a_message_do_not_break_its_event(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    mail.put(agent["id"], content=b'{\r\n  "a": "x\\ny",\n\r "b":\t[1,\n\n2]\n}')
    async with listening(gateway, agent["api_key"]) as source:
        [found] = await source.messages(1)
    assert found["content"] == {"a": "x\ny", "b": [1, 2]}


async def test_a_message_whose_word_got_lost_is_found_by_the_sweep(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    async with listening(gateway, agent["api_key"]) as source:
        await source.next()
        live = gateway.services.realtime.session_of(agent["id"])
        assert live is not None
        await until(lambda: live.idle)
        sent = mail.put(agent["id"], word=False)
        await gateway.services.realtime.sweep()
        assert [one["id"] for one in await source.messages(1)] == [sent.id]


async def test_a_silent_stream_says_that_it_is_alive(
    gateway: Running, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PING_S", 0.01)
    agent = await register("puller")
    async with listening(gateway, agent["api_key"]) as source:
        lines = source.reply.aiter_lines()
        while await anext(lines) != ": ping":
            pass


async def test_an_acknowledgement_over_http_ends_a_message_for_streams_too(
    gateway: Running, http: httpx.AsyncClient, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    first, second = mail.put(agent["id"]), mail.put(agent["id"])
    assert await gateway.services.mailboxes.discard(agent["id"], Lane.NORMAL, mail.entry_of(first))
    async with listening(gateway, agent["api_key"]) as source:
        assert [one["id"] for one in await source.messages(1)] == [second.id]


async def test_watchers_hear_of_the_agents_they_watch_and_of_no_others(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    watcher, star, watched, other = [await register(name) for name in ("w", "s", "a", "b")]
    async with (
        listening(gateway, watcher["api_key"], watch=["a"]) as one,
        listening(gateway, star["api_key"], watch="*") as all_,
    ):
        await one.next()
        await all_.next()
        changes = [
            {"agent_id": agent["id"], "state": state, "at": "2026-01-01T00:00:00Z"}
            for agent, state in ((other, "online"), (watched, "away"))
        ]
        mail.raw.publish("ab:presence", encode(changes))
        assert (await one.next())[::2] == ("presence", changes[1])
        assert [(await all_.next())[2] for _ in changes] == changes
