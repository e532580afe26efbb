"""What is unwise in the settings. What is impossible they refuse by themselves (`broker.settings.load`)."""

import resource
import shutil
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qs, urlsplit

from broker.core.diagnosis import Finding, Severity
from broker.settings import Settings, is_loopback
from schema.limits import CONNECTIONS_OPEN_MAX

KEY_CHARS_MIN: Final = 24
"""A key of this many random characters cannot be guessed; a word can."""
KEY_DISTINCT_MIN: Final = 10
"""Different characters in a key: of 24 random ones fewer are as good as impossible; `aaaa...` has one."""
EXAMPLE_WORDS: Final = ("changeme", "change-me", "change_me", "example", "password", "insecure")
"""What keys hold that were copied out of instructions."""
WIDE_PREFIX: Final = 8
DISK_FREE_MIN: Final = 0.1
TLS_MODES: Final = ("require", "verify-ca", "verify-full")


def judge_settings(settings: Settings) -> list[Finding]:
    """Return what is unwise in the settings of this process, or of the host it runs on."""
    return [
        *judge_access(settings),
        *_signing(settings),
        *_transport(settings),
        *_durability(settings),
        *_networks(settings),
        *_files(),
        *_disk(settings),
    ]


def judge_access(settings: Settings) -> list[Finding]:
    """Return what lets strangers in: fatal where the gateway can be reached from other machines."""
    is_public = not is_loopback(settings.host)
    found = []
    if not settings.require_authentication:
        found.append(
            _open_to_all(is_public)(
                "settings.no_authentication",
                "REQUIRE_AUTHENTICATION is off: every caller is an operator",
                "switch it on for anything but an experiment",
            )
        )
    elif why := _weakness(settings.agent_api_key):
        code, message = why
        found.append(
            _open_to_all(is_public)(
                code, message, "use a long random one, for example: openssl rand -base64 32"
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
    if not settings.secrets_key:
        found.append(
            _warning(
                "settings.no_secrets_key",
                "SECRETS_KEY is not set: whoever reads the database can sign pushes as this broker",
                "set it on every process (openssl rand -base64 32), then run `agent-broker secrets rotate`",
            )
        )
    if settings.require_authentication and is_public:
        found.append(
            _warning(
                "settings.plain_http",
                f"the gateway listens on {settings.host} without TLS of its own",
                "put a proxy that ends TLS in front: keys travel in every request",
            )
        )
    return found


def _signing(settings: Settings) -> list[Finding]:
    if settings.secrets_key or not settings.require_signed_ingress:
        return []
    return [
        _fatal(
            "settings.no_signing_secret",
            "REQUIRE_SIGNED_INGRESS is on and SECRETS_KEY is not set: no signature can be checked",
            "set SECRETS_KEY on every process (openssl rand -base64 32), then give out publishing keys",
        )
    ]


def _weakness(key: str) -> tuple[str, str] | None:
    """Return code and words for an operator key that can be guessed. Never the key itself."""
    if any(word in key.lower() for word in EXAMPLE_WORDS):
        return "settings.example_key", "AGENT_API_KEY is one out of instructions"
    if len(key) < KEY_CHARS_MIN:
        return "settings.short_key", f"AGENT_API_KEY has {len(key)} characters"
    if len(set(key)) < KEY_DISTINCT_MIN:
        return "settings.simple_key", f"AGENT_API_KEY has only {len(set(key))} different characters"
    return None


def _transport(settings: Settings) -> list[Finding]:
    """Return which stores are spoken to in the clear over a network, or without knowing that it is them."""
    found = []
    redis, redis_query = _parts(settings.redis_url)
    if redis.scheme == "redis" and not _is_here(redis.hostname):
        found.append(
            _warning(
                "settings.plain_redis",
                f"REDIS_URL leads to {redis.hostname} without TLS: messages and the password can be read",
                "use rediss://, unless the network between is yours alone",
            )
        )
    if redis.scheme == "rediss" and redis_query.get("ssl_cert_reqs") == "none":
        found.append(
            _warning(
                "settings.unverified_redis",
                "REDIS_URL says ssl_cert_reqs=none: anybody in between can pass for Redis",
                "leave it out, and name the authority with ssl_ca_certs",
            )
        )
    postgres, postgres_query = _parts(settings.database_url)
    host = postgres_query.get("host") or postgres.hostname
    if not _is_here(host) and postgres_query.get("sslmode") not in TLS_MODES:
        found.append(
            _warning(
                "settings.plain_postgres",
                f"DATABASE_URL leads to {host} and does not insist on TLS",
                "add sslmode=verify-full (or require), unless the network between is yours alone",
            )
        )
    return found


def _parts(url: str) -> tuple[SplitResult, Mapping[str, str]]:
    parts = urlsplit(url)
    return parts, {name: values[-1] for name, values in parse_qs(parts.query).items()}


def _is_here(host: str | None) -> bool:
    """Tell whether nothing leaves this machine on the way: no host and a directory are sockets."""
    return not host or host.startswith("/") or is_loopback(host)


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


def _disk(settings: Settings) -> list[Finding]:
    """Return whether the disk of `up`'s own servers is nearly full; others' cannot be seen from here."""
    place = Path(settings.data_dir)
    if not place.is_dir():
        return []
    usage = shutil.disk_usage(place)
    if usage.free >= DISK_FREE_MIN * usage.total:
        return []
    return [
        _warning(
            "host.disk_nearly_full",
            f"{usage.free // 1024**2} MiB of the disk under DATA_DIR are free: less than a tenth",
            "make room, or lower MESSAGE_RETENTION_DAYS: full, nothing is accepted any more",
        )
    ]


def _open_to_all(is_public: bool) -> Callable[[str, str, str], Finding]:
    return _fatal if is_public else _warning


def _fatal(code: str, message: str, remedy: str) -> Finding:
    return Finding(code, Severity.FATAL, message, remedy)


def _warning(code: str, message: str, remedy: str) -> Finding:
    return Finding(code, Severity.WARNING, message, remedy)
