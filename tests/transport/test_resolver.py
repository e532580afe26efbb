"""The resolver: cached, bounded, in time, judged every time."""

import asyncio
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from peer import LOOPBACK

from broker.core.addresses import AddressPolicy
from broker.transport.outcome import FailureKind, Trouble, clock_ms
from broker.transport.resolver import Resolver
from schema import limits

ONE = ip_address("127.0.0.1")
Rows = list[tuple[Any, ...]]  # Any: rows of getaddrinfo


def rows(*addresses: str) -> Rows:
    return [(None, None, None, "", (address, 0)) for address in addresses]


class NameServer:
    """Counts what it is asked; answers when it is let."""

    def __init__(self, answer: Callable[[str], Rows]) -> None:
        self.asked: list[str] = []
        self.answer = answer
        self.let = threading.Event()
        self.let.set()

    def __call__(self, host: str, port: object, **_: object) -> Rows:
        self.asked.append(host)
        assert self.let.wait(20)
        return self.answer(host)


async def test_answers_are_cached_for_a_while() -> None:
    server = NameServer(lambda _: rows("127.0.0.1", "127.0.0.1", "127.0.0.2"))
    resolver = Resolver(LOOPBACK, getaddrinfo=server, cache_ms=60_000)
    for _ in range(3):
        assert await resolver.resolve("a", limit_ms=20_000) == (ONE, ip_address("127.0.0.2"))
    assert server.asked == ["a"]
    resolver.close()


async def test_a_cached_answer_that_is_too_old_is_asked_for_again() -> None:
    server = NameServer(lambda _: rows("127.0.0.1"))
    resolver = Resolver(LOOPBACK, getaddrinfo=server, cache_ms=5)
    await resolver.resolve("a", limit_ms=20_000)
    await asyncio.sleep(0.01)
    await resolver.resolve("a", limit_ms=20_000)
    assert server.asked == ["a", "a"]
    resolver.close()


async def test_literal_is_judged_without_asking_anybody() -> None:
    server = NameServer(lambda _: rows())
    resolver = Resolver(LOOPBACK, getaddrinfo=server)
    assert await resolver.resolve("127.0.0.1", limit_ms=1) == (ONE,)
    assert await resolver.resolve("::1", limit_ms=1) == (ip_address("::1"),)
    denied = await resolver.resolve("10.0.0.1", limit_ms=1)
    assert denied == Trouble(FailureKind.DENIED, "10.0.0.1 is private")
    assert server.asked == []


async def test_cached_answer_is_judged_again() -> None:
    policy = AddressPolicy()
    resolver = Resolver(policy, getaddrinfo=NameServer(lambda _: rows("10.0.0.1")))
    for _ in range(2):
        assert await resolver.resolve("a", limit_ms=20_000) == Trouble(
            FailureKind.DENIED, "the name leads to an address that is private"
        )
    resolver.close()


async def test_one_question_serves_all_who_ask_at_once() -> None:
    server = NameServer(lambda _: rows("127.0.0.1"))
    resolver = Resolver(LOOPBACK, getaddrinfo=server)
    found = await asyncio.gather(*(resolver.resolve("a", limit_ms=20_000) for _ in range(50)))
    assert found == [(ONE,)] * 50
    assert server.asked == ["a"]
    resolver.close()


async def test_slow_name_fails_in_time_and_its_answer_is_still_learnt() -> None:
    server = NameServer(lambda _: rows("127.0.0.1"))
    server.let.clear()
    resolver = Resolver(LOOPBACK, getaddrinfo=server, wait_ms=50)
    began_ms = clock_ms()
    outcome = await resolver.resolve("a", limit_ms=60_000)
    assert isinstance(outcome, Trouble)
    assert outcome.kind is FailureKind.RESOLVE
    assert clock_ms() - began_ms < 10_000
    server.let.set()
    while isinstance(await resolver.resolve("a", limit_ms=20_000), Trouble):
        pass
    assert server.asked == ["a"]
    resolver.close()


async def test_impatient_caller_does_not_spoil_it_for_the_others() -> None:
    server = NameServer(lambda _: rows("127.0.0.1"))
    server.let.clear()
    resolver = Resolver(LOOPBACK, getaddrinfo=server)
    patient = asyncio.create_task(resolver.resolve("a", limit_ms=20_000))
    assert isinstance(await resolver.resolve("a", limit_ms=20), Trouble)
    impatient = asyncio.create_task(resolver.resolve("a", limit_ms=20_000))
    await asyncio.sleep(0)
    impatient.cancel()
    server.let.set()
    assert await patient == (ONE,)
    resolver.close()


async def test_threads_are_bounded() -> None:
    server = NameServer(lambda _: rows("127.0.0.1"))
    server.let.clear()
    resolver = Resolver(LOOPBACK, getaddrinfo=server, wait_ms=100)
    before = threading.active_count()
    many = [resolver.resolve(f"host{number}", limit_ms=20_000) for number in range(100)]
    outcomes = await asyncio.gather(*many)
    assert all(isinstance(outcome, Trouble) for outcome in outcomes)
    assert threading.active_count() - before <= limits.RESOLVER_THREADS_MAX
    assert len(server.asked) <= limits.RESOLVER_THREADS_MAX
    server.let.set()
    resolver.close()


async def test_cache_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.transport.resolver.RESOLVER_NAMES_MAX", 2)
    server = NameServer(lambda _: rows("127.0.0.1"))
    resolver = Resolver(LOOPBACK, getaddrinfo=server)
    for host in ("a", "b", "c", "b", "a"):
        await resolver.resolve(host, limit_ms=20_000)
    assert server.asked == ["a", "b", "c", "a"]
    resolver.close()


def _unknown(_: str) -> Rows:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _unicode(_: str) -> Rows:
    raise UnicodeError("label too long")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_unknown, "Name or service not known"),
        (_unicode, "not a valid name"),
        (lambda _: rows(), "0 addresses"),
        (lambda _: rows("not an address"), "not a valid name"),
        (lambda _: rows(*(f"127.0.1.{number}" for number in range(65))), "65 addresses"),
    ],
)
async def test_bad_answer_is_a_resolve_failure_and_not_cached(
    answer: Callable[[str], Rows], words: str
) -> None:
    server = NameServer(answer)
    resolver = Resolver(LOOPBACK, getaddrinfo=server)
    for _ in range(2):
        outcome = await resolver.resolve("secret.example", limit_ms=20_000)
        assert isinstance(outcome, Trouble)
        assert outcome.kind is FailureKind.RESOLVE
        assert words in outcome.message
        assert "secret" not in outcome.message
    assert len(server.asked) == 2
    resolver.close()


async def test_real_name_server_knows_localhost() -> None:
    resolver = Resolver(LOOPBACK)
    found = await resolver.resolve("localhost", limit_ms=20_000)
    assert not isinstance(found, Trouble)
    assert all(address.is_loopback for address in found)
    # The spellings that look like names and are addresses to getaddrinfo.
    for spelling in ("0x7f.1", "2130706433", "0177.0.0.1", "127.1"):
        strict = Resolver(AddressPolicy())
        denied = await strict.resolve(spelling, limit_ms=20_000)
        assert isinstance(denied, Trouble)
        assert denied.kind is FailureKind.DENIED
        strict.close()
    resolver.close()
