"""Settings: read from the environment, all faults at once, in words."""

import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from broker.settings import EXIT_CODE_FAULTY, STORES, Settings, load
from broker.settings_words import accepted, example

ENV_EXAMPLE = Path(__file__).parent.parent / "deploy" / "env.example"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def faults_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    needs: tuple[str, ...] = (),
    **env: str,
) -> str:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        load(needs)
    assert ended.value.code == EXIT_CODE_FAULTY
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "99999", "'99999' is not accepted; accepted: a whole number from 0 to 65535 (port)"),
        ("SHARDS", "two", "'two' is not accepted; accepted: a whole number from 1 to 256 (shards)"),
        ("LEASE_MS", "1.5", "'1.5' is not accepted; accepted: a whole number from 500 to 600000 (ms)"),
        ("RETRY_TIME_SCALE", "0", "accepted: a number from 0.0001 to 100 (factor)"),
        ("DURABILITY", "no", "'no' is not accepted; accepted: always or everysec"),
        ("REQUIRE_AUTHENTICATION", "maybe", "accepted: true or false"),
        ("HOST", "http://x", "not an address or host name"),
        ("PROCESS_NAME", "a b", "'a b' is not accepted"),
        ("PROCESS_NAME", "a\n", "is not accepted"),
        ("REDIS_URL", "http://localhost", "accepted: redis://, rediss:// or unix://"),
        ("DATABASE_URL", "mysql://localhost", "accepted: postgresql:// or postgres://"),
        ("AGENT_API_KEY", "two words", "holds a space"),
        ("ENDPOINT_ALLOW_CIDRS", "10.0.0.0/8, 1.2.3.4/8", "1.2.3.4/8 has host bits set"),
    ],
)
def test_a_fault_says_what_is_wrong_and_what_is_accepted(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = faults_of(monkeypatch, capsys, **{name: value})
    assert f"  {name}: " in words
    assert said in words


def test_all_faults_are_reported_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = faults_of(monkeypatch, capsys, PORT="x", SHARDS="0", LOG_LEVEL="loud")
    assert words.startswith("agent-broker: 3 settings are wrong:\n")
    assert words.count("\n") == 4


def test_secrets_are_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = faults_of(
        monkeypatch,
        capsys,
        REDIS_URL="http://:hunter2@h",
        DATABASE_URL="mysql://u:hunter2@h",
        AGENT_API_KEY="hunter2 ",
    )
    assert words.count("\n") == 4
    assert "hunter2" not in words
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@h")
    monkeypatch.setenv("AGENT_API_KEY", "hunter2")
    monkeypatch.setenv("DATABASE_URL", "postgres://u:hunter2@h")
    assert "hunter2" not in repr(load())


def test_what_a_command_needs_and_lacks_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = faults_of(monkeypatch, capsys, STORES, REDIS_URL="redis://localhost")
    assert "REDIS_URL" not in words
    assert "DATABASE_URL: not set" in words


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "broker.example", "10.0.0.1"])
def test_authentication_is_off_on_loopback_only(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = faults_of(monkeypatch, capsys, HOST=host, REQUIRE_AUTHENTICATION="false")
    assert "no loopback address" in words


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_authentication_may_be_off_on(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", host)
    monkeypatch.setenv("REQUIRE_AUTHENTICATION", "false")
    assert not load().require_authentication


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "")
    monkeypatch.setenv("PORT", "")
    assert (load().redis_url, load().port) == ("", 8080)


def test_networks_are_read_from_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDPOINT_ALLOW_CIDRS", "127.0.0.0/8, ::1/128,")
    assert load().endpoint_allow_cidrs == (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1000")
    assert load(port=2000).port == 2000
    assert load(port=None).port == 1000


def test_the_bounds_themselves_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, info in Settings.model_fields.items():
        for bound in ("ge", "le"):
            for limit in (getattr(m, bound) for m in info.metadata if hasattr(m, bound)):
                Settings.__pydantic_validator__.validate_assignment(Settings.model_construct(), name, limit)


def test_every_setting_says_what_it_means_and_takes() -> None:
    for info in Settings.model_fields.values():
        assert info.description
        assert info.description.endswith(".")
        assert accepted(info)


def test_the_committed_example_is_current() -> None:
    assert ENV_EXAMPLE.read_text() == example(Settings.model_fields)


def test_the_example_is_the_default_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in example(Settings.model_fields).splitlines():
        name, equals, value = line.removeprefix("#").partition("=")
        if equals and name.isupper():
            monkeypatch.setitem(os.environ, name, value)
    assert load() == Settings.model_construct()
