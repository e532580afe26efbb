"""What the settings let pushes reach: one policy for all who judge endpoints, at registration and at connect.

Our own: where this deployment's gateway, metrics and stores listen, as far as the settings say it with an
address. A push comes from inside, so it must not reach what trusts the inside, allow-listed or not.
"""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import parse_qs, urlsplit

from broker.core.addresses import AddressPolicy, Network
from broker.settings import Settings

_LOOPBACK: Final = tuple(ip_network(cidr) for cidr in ("127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128"))
"""Connecting to the unspecified address reaches this machine as well."""
_ANYWHERE: Final = ("0.0.0.0", "::", "localhost", "")  # noqa: S104  # compared, not bound
_STORE_PORTS: Final = {"redis": 6379, "rediss": 6379, "postgresql": 5432, "postgres": 5432}


def policy_of(settings: Settings) -> AddressPolicy:
    """Return the address policy of a deployment. Raises: Rejected (a network that is never opened)."""
    return AddressPolicy(
        [str(network) for network in settings.endpoint_allow_cidrs],
        ports=settings.endpoint_ports,
        own=tuple(_own(settings)),
    )


def _own(settings: Settings) -> Iterator[tuple[Network, int]]:
    places = [(settings.host, settings.port), (settings.metrics_host, settings.metrics_port)]
    places += _store(settings.redis_url)
    places += _store(settings.database_url)
    for ports in settings.closed_local_ports:
        places += [("localhost", port) for port in range(ports.low, ports.high + 1)]
    for host, port in places:
        if port:
            yield from ((network, port) for network in _networks(host))


def _store(url: str) -> list[tuple[str, int]]:
    """Return where a store listens; a unix socket is nowhere."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return []
    if host is None:
        # `postgresql:///db?host=..&port=..`: beside its socket it may listen on loopback all the same.
        given = parse_qs(parts.query).get("port", [""])[-1]
        return [("localhost", int(given))] if given.isascii() and given.isdigit() else []
    return [(host, port or _STORE_PORTS.get(parts.scheme, 0))]


def _networks(host: str) -> tuple[Network, ...]:
    """Return the addresses of a host; none for a name, which may lead anywhere at any time."""
    if host in _ANYWHERE:
        return _LOOPBACK
    try:
        address = ip_address(host)
    except ValueError:
        return ()
    return _LOOPBACK if address.is_loopback else (ip_network(address),)
