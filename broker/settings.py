"""The settings of a deployment: each with its meaning, unit, bounds and default, read from the environment.

A setting's environment variable is its name in capitals; an empty variable counts as unset. All faults of a
configuration are reported at once, in words, without repeating secrets. Settings are read once per process
and never change while it runs.
"""

import sys
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final, Literal, NoReturn
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from broker.core.addresses import PortRange
from broker.settings_words import accepted, example, in_words
from schema.limits import SECRETS_KEY_CHARS_MIN

EXIT_CODE_FAULTY: Final = 2
PORT_MAX: Final = 65_535
STORES: Final = ("redis_url", "database_url")
"""What every role needs and `up` brings along itself."""


def _whole(default: int, low: int, high: int, unit: str, text: str) -> Any:
    """Describe a whole number. Any: pydantic takes a Field as the value of an annotation of any type."""
    return Field(default, ge=low, le=high, description=text, json_schema_extra={"unit": unit})


def _text(default: str, accepts: str, text: str, *, hide: str = "", pattern: str | None = None) -> Any:
    """Describe a text; `hide` says why its value is never shown. Any: as in `_whole`."""
    extra = {"accepts": accepts, "hide": hide}
    return Field(default, description=text, repr=not hide, pattern=pattern, json_schema_extra=dict(extra))


def _chosen(default: str, text: str) -> Any:
    """Describe a choice from a closed set, which the annotation holds. Any: as in `_whole`."""
    return Field(default, description=text)


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    faults = []
    found = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        try:
            found.append(ip_network(part))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(found)


def _ports(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        low, dash, high = part.partition("-")
        if not (low.isascii() and low.isdigit() and (not dash or (high.isascii() and high.isdigit()))):
            raise ValueError(f"{part[:32]!r} is no port and no range of ports")
        ports = PortRange(int(low), int(high) if dash else int(low))
        if not 1 <= ports.low <= ports.high <= PORT_MAX:
            raise ValueError(f"{ports} is not among 1-{PORT_MAX}")
        found.append(ports)
    return tuple(found)


Ports = Annotated[tuple[PortRange, ...], NoDecode, BeforeValidator(_ports)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_networks)]


class Settings(BaseSettings):
    """Everything a deployment may decide. Bounds nobody should touch are in `schema.limits` instead."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True, extra="forbid")

    # --- stores ---
    redis_url: str = _text(
        "",
        "redis://, rediss:// or unix://",
        "Redis 7.0 or Valkey 8, or newer. Unset: `up` starts its own Valkey.",
        hide="may hold a password",
    )
    database_url: str = _text(
        "",
        "postgresql:// or postgres://",
        "PostgreSQL 15 or newer. Unset: `up` starts its own.",
        hide="may hold a password",
    )
    data_dir: str = _text(".agent-broker", "a directory", "Where `up` keeps its servers' data and its keys.")
    durability: Literal["always", "everysec"] = _chosen(
        "always",
        "always: what was accepted is on disk. everysec (the fast profile): up to a second of it can be "
        "lost, and replies to publishers say so.",
    )
    shards: int = _whole(
        2, 1, 256, "shards", "Fixed when a deployment is created; 2 for a machine, 8 and more for several."
    )
    valkey_maxmemory_mb: int = _whole(
        0, 0, 1_048_576, "MiB", "Memory of `up`'s own Valkey; 0: a quarter of the machine's, at most 4 GiB."
    )
    message_retention_days: int = _whole(
        30, 1, 3650, "days", "Messages and attempts older than this are dropped from Postgres, by whole days."
    )

    # --- access ---
    agent_api_key: str = _text(
        "",
        "printable ASCII without spaces",
        "The operator key: every scope, any agent. Unset: `up` makes one and keeps it in the data directory.",
        hide="is a key",
    )
    key_pepper: str = _text(
        "",
        "any text, the same on every gateway, never changed",
        "Mixed into the stored hashes of agents' keys. Unset: `up` makes one; elsewhere there is none.",
        hide="is a secret",
    )
    secrets_key: str = _text(
        "",
        f"keys of at least {SECRETS_KEY_CHARS_MIN} characters, separated by commas: openssl rand -base64 32",
        "What agents' signing secrets are encrypted with in Postgres: the first key encrypts, all decrypt. "
        "The same on every process. Unset: `up` makes one; elsewhere secrets are stored as they are.",
        hide="is a key",
    )
    require_authentication: bool = Field(
        True, description="Off only for experiments: the gateway then listens on loopback addresses only."
    )
    require_signed_ingress: bool = Field(
        False,
        description="Messages that agents publish natively (on Redis) must be signed with their publishing "
        "keys; what is not goes to quarantine. Needs SECRETS_KEY. The same on every process; change it with "
        "all of them stopped.",
    )
    endpoint_allow_cidrs: Networks = Field(
        (),
        description="Private networks that endpoints may lie in, for example 10.0.0.0/8. "
        "Public addresses always may; `up` allows loopback unless this is set.",
        json_schema_extra={"accepts": "networks separated by commas"},
    )
    endpoint_ports: Ports = Field(
        (PortRange(80, 80), PortRange(443, 443), PortRange(1024, PORT_MAX)),
        description="Ports that endpoints may lie at. Those the broker itself and its stores listen at are "
        "closed in any case.",
        json_schema_extra={"accepts": "ports and ranges such as 8000-8999, separated by commas"},
    )
    closed_local_ports: Ports = Field(
        (),
        description="More ports of this machine that no endpoint may lie at, where loopback is allowed; `up` "
        "fills in those of its servers.",
        json_schema_extra={"accepts": "ports and ranges such as 8000-8999, separated by commas"},
    )

    # --- processes ---
    host: str = _text("127.0.0.1", "an address or host name", "Where the gateway listens.")
    port: int = _whole(8080, 0, 65_535, "port", "Where the gateway listens; 0: any free port.")
    metrics_host: str = _text("127.0.0.1", "an address or host name", "Where metrics are served.")
    metrics_port: int = _whole(
        9464, 0, 65_535, "port", "Where this process serves its metrics (`up`: all of them); 0: any free one."
    )
    message_queue_workers: int = _whole(1, 1, 64, "processes", "Worker processes that `up` starts.")
    process_name: str = _text(
        "",
        "letters, digits, dots, dashes and underscores",
        "This process in logs and leases, unique among live ones; unset: its role, host and process id.",
        pattern=r"^[A-Za-z0-9._-]{0,100}$",
    )
    lease_ms: int = _whole(
        10_000,
        500,
        600_000,
        "ms",
        "After a process was killed, another takes its shards over this much later.",
    )
    drain_timeout_ms: int = _whole(
        20_000, 0, 600_000, "ms", "How long a process that stops waits for what is in flight."
    )
    log_level: Literal["debug", "info", "warning", "error"] = _chosen(
        "info",
        "Events below this are not logged. At debug the texts of unexpected errors are shown too, and they "
        "may hold parts of messages.",
    )
    log_format: Literal["json", "text"] = _chosen("json", "One JSON object a line, or text for people.")

    # --- presence and routing ---
    presence_online_ms: int = _whole(
        60_000, 100, 86_400_000, "ms", "An agent shows as online for this long after its last sign of life."
    )
    silent_after_ms: int = _whole(
        300_000, 100, 604_800_000, "ms", "Routing by capability skips an agent silent for longer than this."
    )
    dedup_window_ms: int = _whole(
        120_000,
        1_000,
        86_400_000,
        "ms",
        "Publishing the same message id again within this time does nothing.",
    )

    # --- admission ---
    inbox_messages_max: int = _whole(
        100_000,
        0,
        100_000_000,
        "messages",
        "What an agent's inbox may hold; beyond it publishing to it is refused (429). 0: any number.",
    )
    inbox_mb_max: int = _whole(
        512,
        0,
        1_048_576,
        "MiB",
        "The same in memory of Redis. An operator may give an agent its own. 0: any.",
    )
    key_rate_per_s: int = _whole(
        0, 0, 1_000_000, "messages", "What one agent's key may publish a second, per gateway. 0: any number."
    )
    pair_rate_per_s: int = _whole(
        0,
        0,
        1_000_000,
        "messages",
        "What one agent may publish to another a second, per gateway. 0: any.",
    )
    fair_rate_per_s: int = _whole(
        500,
        0,
        1_000_000,
        "messages",
        "What one agent publishes beyond this a second waits behind what others publish. 0: nothing does.",
    )
    loop_repeats_max: int = _whole(
        5,
        0,
        1_000_000,
        "messages",
        "The same body between two agents so often a minute is no loop. 0: never.",
    )
    loop_alternations_max: int = _whole(
        20, 0, 1_000_000, "turns", "So many turns between two agents a minute are a loop. 0: never."
    )
    root_messages_max: int = _whole(
        200,
        0,
        32_767,
        "messages",
        "Messages that may go back to one message, of all agents. 0: any number.",
    )
    http_connections_max: int = _whole(
        16_384, 1, 16_384, "connections", "Open connections of a gateway; one more is turned away (503)."
    )

    # --- delivery ---
    endpoint_concurrency: int = _whole(
        4, 1, 64, "requests", "Pushes under way at once to one endpoint that has no number of its own."
    )
    endpoint_pushes_per_second: int = _whole(
        0,
        0,
        100_000,
        "pushes a second",
        "Pushes to one endpoint that has no number of its own; 0: no limit but its concurrency.",
    )
    endpoint_disable_after_ms: int = _whole(
        432_000_000,
        1_000,
        31_536_000_000,
        "ms",
        "An endpoint that did nothing but fail for this long is disabled; its owner is warned at 50, 70 and "
        "90 % of it.",
    )
    attempt_total_ms: int = _whole(15_000, 50, 600_000, "ms", "Deadline of one attempt, all of it.")
    attempt_own_ms_max: int = _whole(
        300_000, 50, 600_000, "ms", "The longest deadline a message may ask for in `metadata.timeout`."
    )
    attempt_connect_ms: int = _whole(3_000, 10, 60_000, "ms", "Deadline to connect.")
    attempt_tls_ms: int = _whole(5_000, 10, 60_000, "ms", "Deadline of the TLS handshake.")
    attempt_first_byte_ms: int = _whole(
        10_000, 10, 600_000, "ms", "Deadline from the request to the first byte of the answer."
    )
    retry_time_scale: float = Field(
        1.0,
        ge=0.0001,
        le=100,
        description="All retry delays are multiplied by this; tests and demonstrations shrink them.",
        json_schema_extra={"unit": "factor"},
    )

    # --- work orders ---
    work_order_lease_ms: int = _whole(
        900_000,
        100,
        86_400_000,
        "ms",
        "Whoever accepted a work order and shows no progress for this long may lose it to somebody else.",
    )

    # --- recording ---
    record_linger_ms: int = _whole(
        15,
        0,
        1_000,
        "ms",
        "How long the recorder waits for more before it writes a small batch; up to 40 ms where a few more"
        " come meanwhile, 100 where many do, hardly at all for who waits.",
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        return _with_scheme(url, ("redis", "rediss", "unix"))

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, url: str) -> str:
        return _with_scheme(url, ("postgresql", "postgres"))

    @field_validator("agent_api_key")
    @classmethod
    def _fits_a_header(cls, key: str) -> str:
        if not all("!" <= character <= "~" for character in key):
            raise ValueError("holds a space or a character that no HTTP header can carry")
        return key

    @field_validator("secrets_key")
    @classmethod
    def _are_keys(cls, text: str) -> str:
        if any(len(key) < SECRETS_KEY_CHARS_MIN for key in _parts(text)):
            raise ValueError(f"a key has fewer than {SECRETS_KEY_CHARS_MIN} characters")
        return text

    @property
    def secrets_keys(self) -> tuple[str, ...]:
        """The keys of `secrets_key`, the one that encrypts first."""
        return _parts(self.secrets_key)

    @field_validator("host")
    @classmethod
    def _is_host(cls, host: str) -> str:
        if not host or "/" in host or " " in host:
            raise ValueError("not an address or host name")
        return host


def load(needs: Sequence[str] = (), **overrides: object) -> Settings:
    """Read the settings; arguments win over the environment, None leaves a setting to it.

    A faulty configuration ends the process with exit code 2, after every fault was printed to stderr.
    `needs` are settings without which this process cannot work.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    faults: list[str] = []
    settings = None
    try:
        settings = Settings(**given)  # type: ignore[arg-type]  # checked by pydantic, that is the point
    except ValidationError as error:
        faults += [in_words(fault, Settings.model_fields) for fault in error.errors()]
    if settings is not None:
        faults += _faults_between(settings)
    faulty = {fault.split(":", 1)[0] for fault in faults}
    missing = [name for name in needs if settings is not None and not getattr(settings, name)]
    faults += [_missing(name) for name in missing if name.upper() not in faulty]
    if settings is None or faults:
        _give_up(faults)
    return settings


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _parts(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _with_scheme(url: str, schemes: tuple[str, ...]) -> str:
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if url and scheme not in schemes:
        raise ValueError("not a URL of this kind")
    return url


def _faults_between(settings: Settings) -> list[str]:
    """Return what is wrong with settings taken together."""
    faults = []
    if not settings.require_authentication and not is_loopback(settings.host):
        faults.append(
            f"REQUIRE_AUTHENTICATION: false, and HOST {settings.host!r} is no loopback address; "
            "accepted: true, or a HOST such as 127.0.0.1"
        )
    if settings.silent_after_ms < settings.presence_online_ms:
        faults.append(
            f"SILENT_AFTER_MS: {settings.silent_after_ms} is less than PRESENCE_ONLINE_MS "
            f"{settings.presence_online_ms}; accepted: at least that"
        )
    return faults


def _missing(name: str) -> str:
    words = accepted(Settings.model_fields[name])
    return f"{name.upper()}: not set, and this command needs it; accepted: {words}"


def _give_up(faults: Sequence[str]) -> NoReturn:
    count = "a setting is wrong" if len(faults) == 1 else f"{len(faults)} settings are wrong"
    sys.stderr.write(f"agent-broker: {count}:\n" + "".join(f"  {fault}\n" for fault in faults))
    sys.exit(EXIT_CODE_FAULTY)


if __name__ == "__main__":
    sys.stdout.write(example(Settings.model_fields))
