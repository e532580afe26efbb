"""Decides which IP addresses may be dialled: the guard against requests forged into our own network.

Judges addresses, never text: `getaddrinfo` turns `0x7f.1`, `2130706433` and full-width digits into 127.0.0.1,
so only what a resolver returned means anything. `ipaddress.is_global` and `is_private` are not used: they are
wrong on Python 3.11.7 for several embedded forms of 169.254.169.254, for 224.0.0.1 and for `fec0::1`.

Invariants: an IPv6 address that carries an IPv4 address is never judged more kindly than that one; no
allow-list opens link-local or metadata addresses, nor the broker's own ports.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, Literal, NamedTuple

from schema.errors import Rejected

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _table(*rows: tuple[str, str]) -> tuple[tuple[Network, str], ...]:
    return tuple((ip_network(cidr), name) for cidr, name in rows)


NEVER: Final = _table(
    ("169.254.0.0/16", "link-local"),
    ("fe80::/10", "link-local"),
    ("fd00:ec2::254/128", "a metadata service"),  # AWS
    ("fd00:ec2::23/128", "a metadata service"),  # AWS, credentials of pods
    ("fd00:c1::a9fe:a9fe/128", "a metadata service"),  # Oracle Cloud
    ("fd00:42::42/128", "a metadata service"),  # Scaleway
    ("fd20:ce::254/128", "a metadata service"),  # Google Cloud
    ("100.100.100.200/32", "a metadata service"),  # Alibaba Cloud
    ("192.0.0.192/32", "a metadata service"),  # Oracle Cloud
    ("168.63.129.16/32", "a metadata service"),  # Azure: inside public space, so nothing else stops it
    ("2001::/32", "Teredo"),
    ("64:ff9b:1::/48", "translated to IPv4 by a network of its own"),
)
"""Closed for good: what answers here hands out the machine's own credentials; the last two are roads to it
whose destination cannot be read off the address."""

DENIED: Final = _table(
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier"),
    ("127.0.0.0/8", "loopback"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved for protocols"),
    ("192.0.2.0/24", "for documentation"),
    ("192.88.99.0/24", "6to4 relay anycast"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("100::/64", "discard-only"),
    ("2001::/23", "reserved for protocols"),
    ("2001:db8::/32", "for documentation"),
    ("2002::/16", "6to4"),
    ("3fff::/20", "for documentation"),
    ("5f00::/16", "segment routing"),
    ("fc00::/7", "private"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)
"""Closed unless allow-listed."""

_GLOBAL_V6: Final = IPv6Network("2000::/3")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_LOW_32_BITS: Final = 0xFFFF_FFFF
_RESERVED_BELOW: Final = 2
"""`::` and `::1` lie in the IPv4-compatible range and are addresses of their own."""
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)
"""The upper half of an interface identifier that says: the lower half is an IPv4 address (RFC 5214)."""


class PortRange(NamedTuple):
    """Ports from `low` to `high`, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


class AddressPolicy:
    """What a deployment lets its pushes reach.

    `allow` holds CIDRs (`10.1.0.0/16`, `::1/128`) open beyond the public Internet; `ports` the ports that may
    be dialled, None for any; `own` where the broker itself and its stores listen: never dialled, allowed or
    not.

    Raises: Rejected for text that is no network, and for a network that lies inside what stays closed.
    """

    __slots__ = ("allow", "own", "ports")

    def __init__(
        self,
        allow: Iterable[str] = (),
        *,
        ports: Iterable[int | PortRange] | None = None,
        own: Iterable[tuple[Network, int]] = (),
    ) -> None:
        self.allow: Final = tuple(_allowed(cidr) for cidr in allow)
        self.ports: Final = None if ports is None else tuple(_range(port) for port in ports)
        self.own: Final = tuple(own)


def judge(address: Address, policy: AddressPolicy) -> str | None:
    """Return None when the address may be dialled, else why not, as half a sentence for people."""
    kind = kind_refused(address, policy)
    return None if kind is None else f"{address} is {kind}"


def judge_all(addresses: Iterable[Address], policy: AddressPolicy) -> str | None:
    """Judge every address a name resolved to: one bad one rejects the name. Return its kind, or None.

    A mix of public and private answers is the signature of DNS rebinding, so the good ones do not count. The
    address itself is not told: whoever owns the name may not be who runs the name server we asked.
    """
    for address in addresses:
        kind = kind_refused(address, policy)
        if kind is not None:
            return kind
    return None


def kind_refused(address: Address, policy: AddressPolicy) -> str | None:
    """Return None when the address may be dialled, else what it is: "private", "a metadata service"."""
    if isinstance(address, IPv4Address):
        return _kind_of_plain(address, policy)
    if address.scope_id is not None:
        return "bound to an interface of this machine"
    form, inner = unwrap(address)
    if inner is None:
        return _kind_of_plain(address, policy)
    kind = _kind_of_plain(inner, policy)
    # Mapped is only a spelling, NAT64 a road to the same IPv4 host: the inner address alone decides.
    if kind is not None or form in _SAME_HOST:
        return kind
    return _kind_of_plain(address, policy)


def judge_own(addresses: Iterable[Address], port: int, policy: AddressPolicy) -> str | None:
    """Return None unless one of the addresses, at this port, is the broker itself or one of its stores.

    A push there would come from inside: what the broker's own machine may do, no agent may make it do.
    """
    for address in addresses:
        host = _host(address)
        if any(port == taken and host in network for network, taken in policy.own):
            return f"port {port} there is the broker's own"
    return None


def judge_port(port: int, policy: AddressPolicy) -> str | None:
    """Return None when the port may be dialled, else why not."""
    if policy.ports is None or any(low <= port <= high for low, high in policy.ports):
        return None
    return f"port {port} is not among the allowed ports"


Form = Literal["plain", "mapped", "compatible", "translated", "nat64", "6to4", "isatap"]
_SAME_HOST: Final = ("mapped", "nat64")


def unwrap(address: IPv6Address) -> tuple[Form, IPv4Address | None]:
    """Return the form of an IPv6 address and the IPv4 address it carries, if any.

    RFC 4291 section 2.5.5 (compatible, mapped), RFC 2765 (translated), RFC 6052 (NAT64, well-known prefix),
    RFC 3056 (6to4), RFC 5214 (ISATAP). Teredo (RFC 4380) carries one too, but is denied whole.
    """
    number = int(address)
    if address in _MAPPED:
        return "mapped", IPv4Address(number & _LOW_32_BITS)
    if address in _NAT64:
        return "nat64", IPv4Address(number & _LOW_32_BITS)
    if address in _SIX_TO_FOUR:
        return "6to4", IPv4Address((number >> 80) & _LOW_32_BITS)
    if address in _COMPATIBLE and number >= _RESERVED_BELOW:
        return "compatible", IPv4Address(number & _LOW_32_BITS)
    if address in _TRANSLATED:
        return "translated", IPv4Address(number & _LOW_32_BITS)
    if (number >> 32) & _LOW_32_BITS in _ISATAP:
        return "isatap", IPv4Address(number & _LOW_32_BITS)
    return "plain", None


def _host(address: Address) -> Address:
    """Return the address of the host that is reached, whatever spelling or road leads there."""
    if isinstance(address, IPv4Address):
        return address
    form, inner = unwrap(address)
    return inner if inner is not None and form in _SAME_HOST else address


def _kind_of_plain(address: Address, policy: AddressPolicy) -> str | None:
    never = _name_of(address, NEVER)
    if never is not None:
        return never
    if any(address in network for network in policy.allow):
        return None
    name = _name_of(address, DENIED)
    if name is None and isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        return "not global unicast"
    return name


def _range(port: int | PortRange) -> PortRange:
    return PortRange(port, port) if isinstance(port, int) else port


def _name_of(address: Address, table: tuple[tuple[Network, str], ...]) -> str | None:
    # Membership across versions is False, never an error, so one table serves both.
    return next((name for network, name in table if address in network), None)


def _allowed(cidr: str) -> Network:
    try:
        network = ip_network(cidr.strip())
    except ValueError:
        raise Rejected(f"{cidr[:64]!r} is not a network such as 10.1.0.0/16") from None
    if any(_inside(network, closed) for closed, _ in NEVER):
        raise Rejected(f"{network} can never be allow-listed: it is link-local or a metadata service")
    return network


def _inside(network: Network, closed: Network) -> bool:
    return (
        network.version == closed.version
        and network.network_address in closed
        and network.broadcast_address in closed
    )
