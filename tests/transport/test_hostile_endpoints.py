"""Every hostile endpoint of the table through the real parser, resolver and dialler: none is connected to.

What the parser refuses is dialled all the same, past it: an endpoint may have been stored by an older
release, and each of the two must do without the other.
"""

import socket
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from canary_listener import listening
from hostile_addresses import GOOD, HOSTILE, ZONE, NameServer, each
from peer import HASTY, Link, answer, kind_of, peer, post, pushing

from broker.core.addresses import Address, AddressPolicy, PortRange, judge
from broker.transport import dial
from broker.transport.client import Answer, FailureKind, PushClient
from broker.transport.endpoint import Origin, Target, parse_endpoint
from broker.transport.outcome import Trouble
from broker.transport.resolver import Resolver
from schema.errors import Rejected

PORTS = (80, 443, PortRange(1024, 65_535))
PUBLIC = AddressPolicy(ports=PORTS)
REFUSED = (FailureKind.DENIED, FailureKind.RESOLVE)
"""An odd spelling that is no address to the C library either is a name nobody knows."""


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Address]:
    """Collect what would be connected to; only loopback really is, so that no test ever calls a stranger."""
    found: list[Address] = []
    connect = dial._connect

    async def watched(address: Address, port: int, *, limit_ms: int) -> socket.socket | Trouble:
        found.append(address)
        if address.is_loopback:
            return await connect(address, port, limit_ms=limit_ms)
        return Trouble(FailureKind.CONNECT, "not here")

    monkeypatch.setattr(dial, "_connect", watched)
    return found


def strict_client() -> dict[str, Any]:
    resolver = Resolver(PUBLIC, getaddrinfo=NameServer(), cache_ms=0)
    return {"policy": PUBLIC, "resolver": resolver}


def past_the_parser(url: str) -> Target | None:
    """Return what a careless parser would make of the URL; None where not even that finds a host."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.hostname:
            scheme = "https" if parts.scheme == "https" else "http"
            return Target(Origin(scheme, parts.hostname, parts.port or 80), "/")
    return None


def test_the_table_is_as_large_as_it_is_said_to_be() -> None:
    urls = [url for urls in HOSTILE.values() for url in urls]
    assert len(urls) == len(set(urls)) >= 150
    assert len(HOSTILE) >= 12
    assert len(GOOD) == len(set(GOOD)) >= 30


async def test_no_hostile_endpoint_is_ever_connected_to(dialled: list[Address]) -> None:
    async with listening() as canary, pushing(**strict_client()) as client:
        wrong = [f"{kind}: {url}" for kind, url in each(canary.port) if not await is_refused(client, url)]
        assert wrong == []
        assert canary.came == 0
        # What a name said before it was rebound may have been dialled; nothing else, and nothing inside.
        assert [str(address) for address in dialled if judge(address, PUBLIC) is not None] == []
        assert len(dialled) <= sum(len(rows) - 1 for rows in ZONE.values()) * 2


async def is_refused(client: PushClient, url: str) -> bool:
    try:
        target: Target | None = parse_endpoint(url)
    except Rejected:
        target = past_the_parser(url)
    if target is None:
        return True
    for _ in ZONE.get(target.origin.host, ["once"])[1:]:
        await post(client, target, deadlines=HASTY)
    return kind_of(await post(client, target, deadlines=HASTY)) in REFUSED


async def test_the_canary_sings_where_loopback_is_allowed() -> None:
    policy = AddressPolicy(["127.0.0.0/8", "::1/128"], ports=PORTS)
    resolver = Resolver(policy, getaddrinfo=NameServer())
    async with listening() as canary, pushing(policy=policy, resolver=resolver) as client:
        urls = ["127.0.0.1", "127.0.0.2", "[::ffff:127.0.0.1]", "loopback.example", "mapped.example"]
        for host in urls:
            await answer(client, parse_endpoint(f"http://{host}:{canary.port}/"))
        assert canary.came == len(urls)


async def test_the_brokers_own_ports_are_not_connected_to_where_loopback_is_allowed() -> None:
    async with listening() as canary:
        own = [(network, canary.port) for network in AddressPolicy(["127.0.0.0/8", "::1/128"]).allow]
        policy = AddressPolicy(["0.0.0.0/0", "::/0"], own=own)
        resolver = Resolver(policy, getaddrinfo=NameServer())
        async with pushing(policy=policy, resolver=resolver) as client:
            for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "loopback.example", "nat64.example"):
                outcome = await post(client, parse_endpoint(f"http://{host}:{canary.port}/"))
                assert kind_of(outcome) is FailureKind.DENIED
        assert canary.came == 0


@pytest.mark.parametrize("url", GOOD)
async def test_good_endpoint_is_taken_and_dialled(url: str, dialled: list[Address]) -> None:
    target = parse_endpoint(url, PUBLIC)
    async with pushing(**strict_client()) as client:
        assert kind_of(await post(client, target)) is FailureKind.CONNECT
    assert dialled
    assert all(judge(address, PUBLIC) is None for address in dialled)


REDIRECTS = (301, 302, 303, 305, 307, 308)


@pytest.mark.parametrize("status", REDIRECTS)
async def test_redirect_inside_is_an_answer_and_not_followed(status: int) -> None:
    policy = AddressPolicy(["127.0.0.1/32"])  # the receiver's, not the canary's
    async with listening() as canary:

        async def redirecting(link: Link) -> None:
            await link.request()
            places = f"http://127.0.0.2:{canary.port}/", f"//127.0.0.2:{canary.port}/"
            fields = "".join(f"Location: {place}\r\nRefresh: 0; url={place}\r\n" for place in places)
            await link.write(f"HTTP/1.1 {status} Moved\r\n{fields}Content-Length: 0\r\n\r\n".encode())

        async with peer(redirecting) as there, pushing(policy=policy) as client:
            outcome = await post(client, there.target())
            assert isinstance(outcome, Answer)
            assert outcome.status == status
        assert canary.came == 0


async def test_connection_that_ends_up_elsewhere_than_judged_is_closed_unused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a rule in the kernel would do: we ask for one address and are connected to another."""

    class Redirected(socket.socket):
        def connect(self, address: Any) -> None:  # as socket.connect: any address
            super().connect(("127.0.0.2", address[1]))

    async with listening() as canary, pushing() as client:
        monkeypatch.setattr(dial.socket, "socket", Redirected)
        outcome = await post(client, parse_endpoint(f"http://127.0.0.1:{canary.port}/"))
        assert kind_of(outcome) is FailureKind.DENIED
        assert "another address" in getattr(outcome, "message", "")
        assert canary.heard_bytes == 0


async def test_idle_connection_is_not_kept_longer_than_thirty_seconds() -> None:
    async with pushing() as client:
        assert client._keep_alive_ms <= 30_000
