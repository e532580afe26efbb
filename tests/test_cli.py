"""The command line: arguments, exit codes, and nothing imported that was not asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

from broker.cli import main
from broker.settings import Settings

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["up", "--help"], ["demo", "--help"], ["bench", "--help"]]
)
def test_help_is_had_for_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert "agent-broker" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required"),
        (["nonsense"], "invalid choice"),
        (["up", "--port", "x"], "invalid int value"),
        (["up", "--port", "70000"], "PORT: 70000 is not accepted"),
        (["up", "--workers", "0"], "MESSAGE_QUEUE_WORKERS: 0 is not accepted"),
        (["gateway"], "REDIS_URL: not set"),
        (["recorder"], "DATABASE_URL: not set"),
        (["migrate"], "DATABASE_URL: not set"),
    ],
)
def test_wrong_arguments_and_settings_end_with_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("trades", ["", "route,route", "sing", "route,sing"])
def test_unknown_trades_end_with_2(trades: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "--trades", trades]) == 2
    assert "accepted: route, deliver or route,deliver" in capsys.readouterr().err


def test_settings_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    listed = capsys.readouterr().out
    assert all(name.upper() in listed for name in Settings.model_fields)


def test_settings_are_written_as_a_file_of_variables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--env"]) == 0
    assert capsys.readouterr().out == (ROOT / "deploy" / "env.example").read_text()


def test_migrations_are_applied_once(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    assert main(["migrate"]) == 0
    assert main(["migrate"]) == 0
    assert capsys.readouterr().out.endswith("nothing to apply\n")


def test_no_role_is_imported_that_was_not_asked_for() -> None:
    program = (
        "import sys, broker.cli; "
        "roles = ('workers', 'asyncpg', 'falcon', 'redis'); "
        "print([name for name in sys.modules if name.split('.')[0] in roles])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_every_line_of_the_procfile_is_a_command_of_ours() -> None:
    lines = (ROOT / "Procfile").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["gateway", "worker", "recorder", "keeper"]
    for line in lines:
        name, _, command = line.partition(": ")
        assert command.split()[:2] == [".venv/bin/agent-broker", name]
        with pytest.raises(SystemExit) as ended:
            main([*command.split()[1:], "--help"])
        assert ended.value.code == 0
