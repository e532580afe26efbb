"""From an origin to an open connection: resolve, judge, connect to the literal address, TLS.

The cold path: one task per connection. Every step has a deadline and ends in a connection or a Trouble.
Invariants: no socket is connected to an address the policy has not judged in this call; over TLS the
certificate must be for the host, whatever address it was reached by. Proxies of the environment are ignored.
"""

import asyncio
import os
import socket
import ssl
from ipaddress import ip_address
from typing import Final

from msgspec import Struct

from broker.core.addresses import Address, AddressPolicy, judge_own, judge_port
from broker.transport.endpoint import Origin
from broker.transport.outcome import Deadlines, FailureKind, Trouble, clock_ms
from broker.transport.protocol import Connection, Owner
from broker.transport.resolver import Resolver
from schema.limits import ADDRESSES_TRIED_MAX

_HANDSHAKE_SLACK_S: Final = 1
"""asyncio's own handshake limit, later than ours: ours knows that it was a time-out."""


class Dialler(Struct, frozen=True):
    """What all connections of a client are made with."""

    policy: AddressPolicy
    resolver: Resolver
    tls: ssl.SSLContext

    async def dial(
        self, origin: Origin, owner: Owner, *, deadlines: Deadlines, ends_ms: int
    ) -> Connection | Trouble:
        """Return an open, idle connection that reports to the owner, or why there is none."""
        fault = judge_port(origin.port, self.policy)
        if fault is not None:
            return Trouble(FailureKind.DENIED, fault)
        found = await self.resolver.resolve(origin.host, limit_ms=_left(ends_ms, deadlines.total_ms))
        if isinstance(found, Trouble):
            return found
        fault = judge_own(found, origin.port, self.policy)
        if fault is not None:
            return Trouble(FailureKind.DENIED, fault)
        limit_ms = _left(ends_ms, deadlines.connect_ms)
        sock = await _connect_any(found[:ADDRESSES_TRIED_MAX], origin.port, limit_ms=limit_ms)
        if isinstance(sock, Trouble):
            return sock
        connection = Connection(owner, origin)
        opened: Connection | Trouble | None = None
        try:
            if origin.scheme == "http":
                opened = await _open_plain(sock, connection)
            else:
                limit_ms = _left(ends_ms, deadlines.tls_ms)
                opened = await _open_tls(sock, connection, tls=self.tls, limit_ms=limit_ms)
        finally:
            if opened is not connection:
                connection.abandon()
        return opened


def default_tls() -> ssl.SSLContext:
    """Return the context used when none is given: the system's authorities, verification on, HTTP/1.1."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _connect_any(
    addresses: tuple[Address, ...], port: int, *, limit_ms: int
) -> socket.socket | Trouble:
    """Connect to the first address that takes us; each may use its share of what is left of the limit."""
    ends_ms = clock_ms() + limit_ms
    result: socket.socket | Trouble = Trouble(FailureKind.CONNECT, "no address to connect to")
    for tried, address in enumerate(addresses):
        share_ms = (ends_ms - clock_ms()) // (len(addresses) - tried)
        result = await _connect(address, port, limit_ms=max(share_ms, 1))
        if not isinstance(result, Trouble):
            break
    return result


async def _connect(address: Address, port: int, *, limit_ms: int) -> socket.socket | Trouble:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    text = str(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(limit_ms / 1000):
            await asyncio.get_running_loop().sock_connect(sock, (text, port))
        # The kernel may have been told to send us elsewhere; only where we really are counts.
        reached: str = sock.getpeername()[0]
    except TimeoutError:
        sock.close()
        return Trouble(FailureKind.TIMEOUT, "no connection within the time allowed")
    except OSError as error:
        sock.close()
        return Trouble(FailureKind.CONNECT, f"no connection: {_words(error)}")
    except BaseException:
        sock.close()
        raise
    # Spelled the same it is the same, which saves reading it; another spelling need not be another address.
    if reached != text and ip_address(reached) != address:
        sock.close()
        return Trouble(FailureKind.DENIED, "connected to another address than the one judged")
    return sock


async def _open_plain(sock: socket.socket, connection: Connection) -> Connection | Trouble:
    try:
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=sock)
    except OSError as error:
        sock.close()
        return Trouble(FailureKind.CONNECT, f"no connection: {_words(error)}")
    return connection


async def _open_tls(
    sock: socket.socket, connection: Connection, *, tls: ssl.SSLContext, limit_ms: int
) -> Connection | Trouble:
    try:
        async with asyncio.timeout(limit_ms / 1000):
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                sock=sock,
                ssl=tls,
                server_hostname=connection.origin.host,
                ssl_handshake_timeout=limit_ms / 1000 + _HANDSHAKE_SLACK_S,
            )
    except TimeoutError:
        return Trouble(FailureKind.TIMEOUT, "no TLS handshake within the time allowed")
    except ssl.SSLCertVerificationError as error:
        return Trouble(FailureKind.TLS, f"the certificate is not trusted: {error.verify_message}")
    except ssl.SSLError as error:
        return Trouble(FailureKind.TLS, f"the TLS handshake failed: {error.reason or 'no reason given'}")
    except OSError:
        return Trouble(FailureKind.TLS, "the connection closed during the TLS handshake")
    return connection


def _left(ends_ms: int, most_ms: int) -> int:
    return max(min(most_ms, ends_ms - clock_ms()), 1)


def _words(error: OSError) -> str:
    # Not str(error): asyncio puts the address into it.
    return os.strerror(error.errno) if error.errno else type(error).__name__
