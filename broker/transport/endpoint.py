"""Turns the text of an endpoint into a Target: where to connect and what to ask for.

Decides what is a valid endpoint; does not resolve names (`resolver`) and does not promise that the address
may be dialled: only what a resolver returns can be judged. Invariant: nothing in a Target can break out of a
request line or a header (no controls, no spaces, ASCII only).
"""

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from msgspec import Struct

from broker.core.addresses import Address, AddressPolicy, judge, judge_own, judge_port
from schema.errors import AddressDenied, Rejected
from schema.limits import ENDPOINT_CHARS_MAX

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST_CHARS_MAX: Final = 253
_LOCALHOST: Final = (ip_address("127.0.0.1"),)
_PORT_MAX: Final = 65_535
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PORT: Final = re.compile(r"[0-9]{1,5}\Z")
# Controls, every kind of blank up to the no-break one, surrogates, and the backslash.
_FORBIDDEN: Final = re.compile("[\x00-\x20\x7f-\xa0\ud800-\udfff\\\\]")
# What may stand in a path or query as it is (RFC 3986 section 3.3 and 3.4), the percent sign included: an
# endpoint arrives already escaped, and escaping it twice would change it.
_PATH_SAFE: Final = "/?:@!$&'()*+,;=-._~%[]"


class Origin(Struct, frozen=True, cache_hash=True):
    """What a connection belongs to. `host` is lower case, IDNA-encoded, an IPv6 literal without brackets.

    The hash is kept: the pool of connections is looked up by Origin once per request.
    """

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class Target(Struct, frozen=True):
    """An endpoint: an origin and the path to ask for, query included."""

    origin: Origin
    path: str


def parse_endpoint(url: str, policy: AddressPolicy | None = None) -> Target:
    """Return the Target of an http or https URL.

    With a policy its port, and its host where that is an address, are judged too: an early answer at
    registration, no substitute for the judgement at every connect.

    Raises: Rejected (field `endpoint`) for what is no usable URL; AddressDenied for what may not be dialled.
    """
    try:
        target = _parse(url)
        if policy is not None:
            _judge(target.origin, policy)
    except Rejected as error:
        raise error.at("endpoint") from None
    return target


@lru_cache(maxsize=4_096)
def _origin(scheme: str, host: str, port: int) -> Origin:
    """Return one object per origin, so that a pool finds it without comparing."""
    return Origin(scheme, host, port)


@lru_cache(maxsize=4_096)
def literal_of(host: str) -> Address | None:
    """Return the address a host spells, or None for a name. Asked at every dial; the answer never changes."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _parse(url: str) -> Target:
    if len(url) > ENDPOINT_CHARS_MAX:
        raise Rejected(f"endpoint of {len(url)} characters; at most {ENDPOINT_CHARS_MAX}")
    # Before urlsplit, which drops tabs and newlines in silence; a backslash is a slash to some parsers.
    if _FORBIDDEN.search(url) is not None:
        raise Rejected("endpoint holds a space, a control character or a backslash")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise Rejected(f"endpoint is not a URL: {error}") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise Rejected("endpoint must begin with http:// or https://")
    if "@" in parts.netloc:
        raise Rejected("endpoint must not hold a user name or password; use the signature to tell who calls")
    if "#" in url:
        raise Rejected("endpoint must not hold a fragment")
    host, port = _split_authority(parts.scheme, parts.netloc)
    return Target(_origin(parts.scheme, host, port), _path(parts))


@lru_cache(maxsize=4_096)
def _split_authority(scheme: str, text: str) -> tuple[str, int]:
    """Return host and port. Kept: many agents are on one host, and IDNA is most of what a URL costs."""
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise Rejected("endpoint has a malformed IPv6 host")
        return _ipv6(inside), _port(scheme, rest)
    name, colon, digits = text.partition(":")
    return _name(name), _port(scheme, colon + digits)


def _port(scheme: str, text: str) -> int:
    # `http://host:/` is legal and means the default (RFC 3986 section 3.2.3).
    if text in ("", ":"):
        return _DEFAULT_PORTS[scheme]
    if _PORT.match(text[1:]) is None or not 0 < int(text[1:]) <= _PORT_MAX:
        raise Rejected(f"endpoint has a bad port {text[1:17]!r}")
    return int(text[1:])


def _ipv6(text: str) -> str:
    address = literal_of(text)
    if not isinstance(address, IPv6Address) or address.scope_id is not None:
        raise Rejected("endpoint has a malformed IPv6 host")
    return str(address)


def _name(text: str) -> str:
    try:
        # Nameprep also folds full-width digits and dots, so what is checked below is what is resolved.
        host = text.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise Rejected("endpoint has a host that is not a valid name") from None
    host = host.removesuffix(".")
    labels = host.split(".")
    if len(host) > _HOST_CHARS_MAX or any(_LABEL.match(label) is None for label in labels):
        raise Rejected("endpoint has a host that is not a valid name")
    # As browsers do (WHATWG URL, "ends in a number"): such a host is a plain IPv4 address or a trick.
    if _NUMBER.match(labels[-1]) is not None and literal_of(host) is None:
        raise AddressDenied("endpoint has a host that ends in a number but is no IPv4 address")
    return host


def _path(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe=_PATH_SAFE)
    return f"{path}?{quote(parts.query, safe=_PATH_SAFE)}" if parts.query else path


def _is_localhost(host: str) -> bool:
    """Tell whether a name is this machine's by definition (RFC 6761 section 6.3)."""
    return host == "localhost" or host.endswith(".localhost")


def _judge(origin: Origin, policy: AddressPolicy) -> None:
    fault = judge_port(origin.port, policy)
    literal = literal_of(origin.host)
    for address in _LOCALHOST if _is_localhost(origin.host) else () if literal is None else (literal,):
        fault = fault or judge(address, policy) or judge_own((address,), origin.port, policy)
    if fault is not None:
        raise AddressDenied(f"endpoint may not be dialled: {fault}")
