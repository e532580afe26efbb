"""What is unwise in the settings. What is impossible they refuse by themselves (`broker.settings.load`)."""

import resource
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from broker.core.diagnosis import Finding, Severity
from broker.settings import Settings, is_loopback
from schema.limits import CONNECTIONS_OPEN_MAX

KEY_CHARS_MIN: Final = 24
"""A key of this many random characters cannot be guessed; a word can."""
WIDE_PREFIX: Final = 8


def judge_settings(settings: Settings) -> list[Finding]:
    """Return what is unwise in the settings of this process."""
    return [*_access(settings), *_durability(settings), *_networks(settings), *_files()]


def _access(settings: Settings) -> list[Finding]:
    found = []
    if not settings.require_authentication:
        found.append(
            _warning(
                "settings.no_authentication",
                "REQUIRE_AUTHENTICATION is off: every caller is an operator",
                "switch it on for anything but an experiment",
            )
        )
    elif len(settings.agent_api_key) < KEY_CHARS_MIN:
        found.append(
            _warning(
                "settings.short_key",
                f"AGENT_API_KEY has {len(settings.agent_api_key)} characters",
                "use a long random one, for example: openssl rand -base64 32",
            )
        )
    if not settings.key_pepper:
        found.append(
            _warning(
                "settings.no_pepper",
                "KEY_PEPPER is not set: a stolen table of key hashes needs nothing else to test keys against",
                "set it before agents are registered; keys given out earlier have to be rotated",
            )
        )
    if settings.require_authentication and not is_loopback(settings.host):
        found.append(
            _warning(
                "settings.plain_http",
                f"the gateway listens on {settings.host} without TLS of its own",
                "put a proxy that ends TLS in front: keys travel in every request",
            )
        )
    return found


def _durability(settings: Settings) -> list[Finding]:
    if settings.durability == "always":
        return []
    return [
        _warning(
            "settings.buffered",
            "DURABILITY is everysec: up to a second of acknowledged messages can be lost in a crash",
            "DURABILITY=always, unless that was chosen",
        )
    ]


def _networks(settings: Settings) -> list[Finding]:
    return [
        _warning(
            "settings.wide_network",
            f"ENDPOINT_ALLOW_CIDRS holds {network}: agents may have anything in it called",
            "list the networks that agents really live in",
        )
        for network in settings.endpoint_allow_cidrs
        if network.prefixlen < WIDE_PREFIX and _holds_private(network)
    ]


def _holds_private(network: IPv4Network | IPv6Network) -> bool:
    return network.prefixlen == 0 or network.is_private or network.num_addresses > 2**24


def _files() -> list[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft > CONNECTIONS_OPEN_MAX:
        return []
    return [
        _warning(
            "host.few_files",
            f"a process may open {soft} files; pushing uses up to {CONNECTIONS_OPEN_MAX} connections",
            "ulimit -n 65536, or LimitNOFILE in the service's unit",
        )
    ]


def _warning(code: str, message: str, remedy: str) -> Finding:
    return Finding(code, Severity.WARNING, message, remedy)
