"""Settling in batches: what piles up while Redis is slow is settled in bounded steps, and wholly."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager

import pytest
import redis
from cluster import client_of, close
from redis_proxy import proxied
from worker_rig import World, message, until

from broker.core.breaker import Breaker
from broker.streams.connection import open_connection
from broker.streams.keys import Keys
from broker.transport.signature import new_secret
from schema.agent import Agent
from schema.codec import encode
from schema.errors import BrokerError
from schema.ids import new_id
from schema.ledger import Event
from schema.limits import SETTLE_BATCH_MAX
from schema.message import Lane, Reason, Status
from workers.delivery.endpoint import Endpoint
from workers.delivery.items import Item, Mailbox, item_of
from workers.delivery.outcome import announced, finished
from workers.delivery.settler import Settler

OWNER = "1:tester"
KEYS = Keys(0)


class Desk:
    """A settler, and what it said."""

    def __init__(self, connection) -> None:
        self.settled: list[Item] = []
        self.errors: list[BrokerError] = []
        self.settler = Settler(
            connection,
            KEYS,
            owner=lambda: OWNER,
            on_settled=self.settled.extend,
            on_error=self.errors.append,
        )


@asynccontextmanager
async def desk(url: str):
    async with await open_connection(url, name="test") as connection:
        yield Desk(connection)


@pytest.fixture
def raw(any_streams_url):
    client = client_of(any_streams_url)
    client.set(KEYS.owner("deliver"), OWNER)
    yield client
    close(client)


def items(raw: redis.Redis, count: int, **more) -> list[Item]:
    agent = Agent(id=new_id(), name="a", endpoint="http://127.0.0.1:9/", signing_secret=new_secret())
    mailbox = Mailbox(Endpoint(agent, Breaker()), KEYS.mailbox(agent.id, Lane.LOW), Lane.LOW)
    envelope = message(agent, **more)
    body = encode(envelope)
    pipe = raw.pipeline(transaction=False)
    for _ in range(count):
        pipe.xadd(mailbox.key, {"m": body})
    return [item_of(mailbox, entry.decode(), envelope, body, "") for entry in pipe.execute()]


@pytest.mark.parametrize("what", ["finish", "retry", "again"])
async def test_a_pile_is_settled_in_bounded_calls(any_streams_url, raw, what):
    """While Redis stands still thousands of attempts may fail; Lua takes no 8,000 values at once, and a call
    that broke off half-way would have deleted entries without a trace."""
    count = 9_000
    pile = items(raw, count)
    async with desk(any_streams_url) as it:
        raw.execute_command("CLIENT", "PAUSE", "500", "ALL")
        for item in pile:
            item.due_taken = what == "again"
            if what == "finish":
                it.settler.finish(item, finished(item, Status.FAILED, Reason.GONE, now_ms=1))
            else:
                event = announced(item, now_ms=1)
                it.settler.retry(item, event, due_ms=10**15, member=f"{item.place}|{item.attempts + 1}")
        async with asyncio.timeout(30):
            await it.settler.drain()
        assert it.errors == []
        assert it.settled == pile
    sizes = [fields[b"b"].count(b'"kind"') for _, fields in raw.xrange(KEYS.ledger)]
    assert (sum(sizes), max(sizes)) == (count, SETTLE_BATCH_MAX)
    assert raw.xlen(pile[0].mailbox.key) == (0 if what == "finish" else count)
    assert raw.zcard(KEYS.due) == (0 if what == "finish" else count)


async def test_full_batches_do_not_wait_for_the_answers_to_others(any_streams_url, raw):
    """Or what was delivered is settled ever later than it was delivered, while a backlog drains."""
    async with proxied(any_streams_url) as proxy, desk(proxy.url) as at:
        done = items(raw, 6 * SETTLE_BATCH_MAX)
        at.settler.finish(done[0], finished(done[0], Status.FAILED, Reason.GONE, now_ms=1))
        await until(lambda: at.settled == done[:1])
        proxy.hold_replies()
        for item in done[1:]:
            at.settler.finish(item, finished(item, Status.FAILED, Reason.GONE, now_ms=1))
        await until(lambda: proxy.asked.count(b"EVALSHA") == 6)
        assert at.settled == done[:1]
        proxy.let_go()
        await until(lambda: at.settled == done)


async def test_a_few_results_share_a_call_after_a_moment(any_streams_url, raw):
    async with desk(any_streams_url) as it:
        pile = items(raw, 5)
        for item in pile:
            it.settler.finish(item, finished(item, Status.FAILED, Reason.GONE, now_ms=1))
        await until(lambda: it.settled == pile)
    assert raw.xlen(KEYS.ledger) == 1


async def test_a_stale_owner_hears_of_it_and_has_changed_nothing(any_streams_url, raw):
    raw.set(KEYS.owner("deliver"), "2:other")
    async with desk(any_streams_url) as it:
        [item] = items(raw, 1)
        it.settler.finish(item, finished(item, Status.FAILED, Reason.GONE, now_ms=1))
        async with asyncio.timeout(5):
            await it.settler.drain()
        assert [error.code for error in it.errors] == ["fenced"]
        assert it.settled == []
    assert raw.xlen(item.mailbox.key) == 1
    assert not raw.exists(KEYS.ledger)


async def test_a_closed_settler_sends_nothing_more(any_streams_url, raw):
    async with desk(any_streams_url) as it:
        [first, second] = items(raw, 2)
        it.settler.finish(first, finished(first, Status.FAILED, Reason.GONE, now_ms=1))
        it.settler.close()
        it.settler.finish(second, finished(second, Status.FAILED, Reason.GONE, now_ms=1))
        await asyncio.sleep(0.05)  # longer than results wait for company
        assert raw.xlen(first.mailbox.key) == 2


@pytest.mark.parametrize("body", [b"{}", b'{"status": "processed"}'], ids=["plain", "outspoken"])
async def test_what_fails_after_a_message_was_settled_ends_it_no_second_time(streams_url, monkeypatch, body):
    """A fault of ours: whatever the rest of the work on an answer meets, the message has its end."""
    broken: list[str] = []

    def failing(settle: Callable[..., None]) -> Callable[..., None]:
        def settled(self: Settler, item: Item, event: Event | bytes) -> None:
            settle(self, item, event)
            if not broken:
                broken.append(item.id)
                raise ZeroDivisionError

        return settled

    for way in ("finish", "finish_written"):
        monkeypatch.setattr(Settler, way, failing(getattr(Settler, way)))
    async with World(streams_url) as world:
        receiver = await world.receiver()
        receiver.script = lambda _: (200, body)
        agent = world.agent(receiver)
        await world.site()
        ids = await world.send(*(message(agent) for _ in range(5)))
        await world.until_ended(ids)
        await world.until_clean()
        assert len(broken) == 1
        assert {len(ends) for ends in world.ends().values()} == {1}
        assert not any((Status.FAILED, "poison") in ends for ends in world.ends().values())
