"""Dialling: only vetted addresses are connected to, and over TLS only whom the certificate names."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from msgspec.structs import replace
from peer import HASTY, LOOPBACK, OK, PATIENT, Link, answer, kind_of, peer, post, pushing

from broker.core.addresses import AddressPolicy
from broker.transport.client import Answer, Failure, FailureKind
from broker.transport.resolver import Resolver

Rows = list[tuple[Any, ...]]  # Any: rows of getaddrinfo


async def serving(link: Link) -> None:
    while True:
        await link.request()
        await link.write(OK)


async def silent(link: Link) -> None:
    await link.until_closed()


def names(**hosts: list[str]) -> Callable[..., Rows]:
    """A name server: each host's addresses, in order."""

    def getaddrinfo(host: str, port: object, **_: object) -> Rows:
        found = hosts.get(host.split(".")[0])
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(None, None, None, "", (address, 0)) for address in found]

    return getaddrinfo


async def test_name_is_resolved_and_sent_as_host() -> None:
    resolver = Resolver(LOOPBACK, getaddrinfo=names(good=["127.0.0.1"]))
    async with peer(serving) as there, pushing(resolver=resolver) as client:
        await answer(client, there.target("good.example"))
        assert f"Host: good.example:{there.port}\r\n".encode() in there.requests[0][0]


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        (["10.0.0.1"], "private"),
        (["127.0.0.1", "10.0.0.1"], "private"),
        (["10.0.0.1", "127.0.0.1"], "private"),
        (["169.254.169.254"], "link-local"),
        (["127.0.0.1", "::ffff:169.254.169.254"], "link-local"),
        (["fe80::1%1"], "interface"),
    ],
)
async def test_one_denied_address_keeps_us_from_dialling_any(addresses: list[str], reason: str) -> None:
    resolver = Resolver(LOOPBACK, getaddrinfo=names(mixed=addresses))
    async with peer(serving) as there, pushing(resolver=resolver) as client:
        outcome = await post(client, there.target("mixed.example"))
        assert kind_of(outcome) is FailureKind.DENIED
        assert isinstance(outcome, Failure)
        assert reason in outcome.message
        assert there.accepted == 0


async def test_denied_literal_is_not_connected_to() -> None:
    policy = AddressPolicy()
    async with peer(serving) as there, pushing(policy=policy) as client:
        assert kind_of(await post(client, there.target())) is FailureKind.DENIED
        assert there.accepted == 0


async def test_denied_port_is_not_connected_to() -> None:
    policy = AddressPolicy(["127.0.0.0/8"], ports=[443])
    async with peer(serving) as there, pushing(policy=policy) as client:
        assert kind_of(await post(client, there.target())) is FailureKind.DENIED
        assert there.accepted == 0


async def test_name_that_is_rebound_between_connections_is_denied() -> None:
    addresses = ["127.0.0.1"]
    resolver = Resolver(LOOPBACK, getaddrinfo=names(rebound=addresses), cache_ms=0)
    async with peer(serving) as there, pushing(resolver=resolver, keep_alive_ms=100) as client:
        target = there.target("rebound.example")
        await answer(client, target)
        addresses[:] = ["10.0.0.1"]
        await there.until(lambda it: it.closed == 1)
        assert kind_of(await post(client, target)) is FailureKind.DENIED
        assert there.accepted == 1


async def test_a_name_rebound_after_it_was_judged_leads_nowhere_else() -> None:
    """Its name server tells whoever asks first an address that may be dialled, and then another."""
    told = iter(["127.0.0.1"])

    def rebinding(host: str, port: object, **_: object) -> Rows:
        return [(None, None, None, "", (next(told, "127.0.0.2"), 0))]

    policy = AddressPolicy(["127.0.0.1/32"])
    async with peer(serving) as there, peer(serving, host="127.0.0.2", port=there.port) as canary:
        async with pushing(policy=policy, resolver=Resolver(policy, getaddrinfo=rebinding)) as client:
            outcome = await post(client, there.target("rebound.example"))
        assert canary.accepted == 0
        assert isinstance(outcome, Answer)
        assert there.accepted == 1


async def test_next_address_is_tried_when_one_refuses() -> None:
    # Nobody listens on 127.0.0.2 at the ephemeral port the peer was given on 127.0.0.1.
    resolver = Resolver(LOOPBACK, getaddrinfo=names(two=["127.0.0.2", "127.0.0.1"]))
    async with peer(serving) as there, pushing(resolver=resolver) as client:
        await answer(client, there.target("two.example"))


async def test_connect_deadline_is_shared_by_the_addresses() -> None:
    # A listener whose backlog is full takes no more connections, and does not refuse them either.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        host, port = full.getsockname()
        waiting = []
        while True:
            sock = socket.socket()
            sock.settimeout(0.2)
            waiting.append(sock)
            try:
                sock.connect((host, port))
            except TimeoutError:
                break
        try:
            resolver = Resolver(LOOPBACK, getaddrinfo=names(full=["127.0.0.1"] * 1))
            async with peer(serving) as there, pushing(resolver=resolver) as client:
                there.port = port
                outcome = await post(
                    client, there.target("full.example"), deadlines=replace(PATIENT, connect_ms=200)
                )
                assert kind_of(outcome) is FailureKind.TIMEOUT
                assert 200 <= outcome.duration_ms < PATIENT.total_ms
        finally:
            for sock in waiting:
                sock.close()


async def test_proxy_of_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(silent) as proxy, peer(serving) as there, pushing() as client:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await answer(client, there.target())
        assert proxy.accepted == 0


# --- TLS --------------------------------------------------------------------------------------------

RESOLVES = names(good=["127.0.0.1"], other=["127.0.0.1"])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_tls_with_a_good_certificate_sends_the_name_and_keeps_the_connection(
    authority: Authority,
) -> None:
    context = authority.server("good.example")
    asked: list[str | None] = []
    context.sni_callback = lambda sock, name, ctx: asked.append(name)
    resolver = Resolver(LOOPBACK, getaddrinfo=RESOLVES)
    async with (
        peer(serving, tls=context) as there,
        pushing(resolver=resolver, tls=authority.trusting()) as client,
    ):
        for size in (2, 2, 300_000):
            assert (await answer(client, there.target("good.example"), b"x" * size)).body == b"{}"
        assert there.accepted == 1
        assert asked == ["good.example"]
        assert len(there.requests[2][1]) == 300_000


async def test_tls_to_a_literal_address_wants_a_certificate_for_it(authority: Authority) -> None:
    async with (
        peer(serving, tls=authority.server("127.0.0.1")) as there,
        pushing(tls=authority.trusting()) as client,
    ):
        await answer(client, there.target())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda authority: authority.server("other.example"),
            "certificate is not trusted: Hostname mismatch",
        ),
        (lambda authority: authority.server("127.0.0.1"), "certificate is not trusted: Hostname mismatch"),
        (lambda authority: authority.server("good.example", self_signed=True), "not trusted: self-signed"),
        (
            lambda authority: authority.server("good.example", days=(-9, -2)),
            "not trusted: certificate has expired",
        ),
        (
            lambda authority: authority.server("good.example", days=(2, 9)),
            "not trusted: certificate is not yet",
        ),
    ],
)
async def test_certificate_that_is_not_the_names_is_a_tls_failure(
    authority: Authority, make: Callable[[Authority], ssl.SSLContext], words: str
) -> None:
    resolver = Resolver(LOOPBACK, getaddrinfo=RESOLVES)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's side of the refusal
    async with (
        peer(serving, tls=make(authority)) as there,
        pushing(resolver=resolver, tls=authority.trusting()) as client,
    ):
        outcome = await post(client, there.target("good.example"))
        assert isinstance(outcome, Failure)
        assert outcome.kind is FailureKind.TLS
        assert words in outcome.message
        assert there.requests == []


async def test_unknown_authority_is_refused_by_the_default_context(authority: Authority) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with peer(serving, tls=authority.server("127.0.0.1")) as there, pushing() as client:
        assert kind_of(await post(client, there.target())) is FailureKind.TLS


async def _hangs_up(link: Link) -> None:
    link.reset()


async def _speaks_plainly(link: Link) -> None:
    await link.write(b"HTTP/1.1 400 This is plain HTTP\r\n\r\n" * 10)
    await link.until_closed()


@pytest.mark.parametrize(
    ("script", "kind", "tls_ms"),
    [
        (silent, FailureKind.TIMEOUT, 300),
        # What ends by itself is not cut short by a machine that stands still.
        (_hangs_up, FailureKind.TLS, PATIENT.total_ms),
        (_speaks_plainly, FailureKind.TLS, PATIENT.total_ms),
    ],
)
async def test_handshake_that_does_not_come_about_is_a_failure_in_time(
    script: Callable[[Link], Any], kind: FailureKind, tls_ms: int
) -> None:
    async with peer(script) as there, pushing() as client:
        there.scheme = "https"
        outcome = await post(client, there.target(), deadlines=replace(PATIENT, tls_ms=tls_ms))
        assert kind_of(outcome) is kind
        assert outcome.duration_ms < PATIENT.total_ms


async def test_close_during_a_handshake_leaves_nothing() -> None:
    async with peer(silent) as there, pushing() as client:
        there.scheme = "https"
        outcome = post(client, there.target())
        await there.until(lambda it: it.accepted == 1)
        await client.aclose()
        assert kind_of(await outcome) is FailureKind.CANCELLED
        await there.until(lambda it: it.closed == 1)


async def test_tls_peer_that_stalls_is_timed_out_and_closed(authority: Authority) -> None:
    async def half(link: Link) -> None:
        await link.request()
        await link.write(OK[:10])
        await link.until_closed()

    async with (
        peer(half, tls=authority.server("127.0.0.1")) as there,
        pushing(tls=authority.trusting()) as client,
    ):
        assert kind_of(await post(client, there.target(), deadlines=HASTY)) is FailureKind.TIMEOUT
        await there.until(lambda it: it.closed == 1)


async def test_answer_over_tls_that_ends_with_the_connection(authority: Authority) -> None:
    async def script(link: Link) -> None:
        await link.request()
        await link.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

    async with (
        peer(script, tls=authority.server("127.0.0.1")) as there,
        pushing(tls=authority.trusting()) as client,
    ):
        outcome = await post(client, there.target())
        assert isinstance(outcome, Answer)
        assert outcome.body == b"until the end"
