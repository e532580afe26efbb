"""Log events: one JSON object a line, with a constant name, and nothing secret."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from broker.telemetry import logs
from schema.errors import StoreUnavailable


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_an_event_is_one_json_line(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", format="json", process="worker-1")
    logs.event("delivery.settled", message="m", attempts=2, text="two\nlines", odd="\ud800")
    (line,) = lines(capfd)
    assert line["event"] == "delivery.settled"
    assert line["process"] == "worker-1"
    assert line["attempts"] == 2
    assert line["text"] == "two\nlines"
    assert str(line["at"]).endswith("Z")


def test_levels_below_the_chosen_one_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="warning", format="json", process="p")
    logs.debug("a")
    logs.event("b")
    logs.warning("c")
    logs.error("d")
    assert [line["event"] for line in lines(capfd)] == ["c", "d"]


def failure(kind: type[BaseException], *args: object) -> BaseException:
    """Return an exception that was raised because of another, both with something of somebody's in them."""
    try:
        try:
            raise ValueError("what somebody sent")
        except ValueError as cause:
            raise kind(*args) from cause
    except kind as error:
        return error


def test_an_error_shows_where_it_came_from_and_not_what_it_choked_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logs.configure(level="info", format="json", process="p")
    logs.error("loop.failed", error=failure(KeyError, "what somebody sent"))
    logs.error("loop.failed", error=ExceptionGroup("g", [failure(TypeError, "what somebody sent")]))  # type: ignore[list-item]  # an Exception
    logs.warning("loop.failed", error=failure(RuntimeError, "what somebody sent"))
    told = capfd.readouterr().err
    assert "what somebody sent" not in told.replace('raise ValueError(\\"what somebody sent\\")', "")
    first, second, _ = [json.loads(line) for line in told.splitlines()]
    assert first["error"].startswith("KeyError (")
    assert "in failure" in first["trace"]
    assert "ValueError (" in first["trace"]
    assert "TypeError (" in second["trace"]


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (StoreUnavailable("the store is away"), "StoreUnavailable: the store is away"),
        (OSError(111, "what somebody sent"), "ConnectionRefusedError: Connection refused"),
        (OSError("what somebody sent"), "OSError"),
        (RuntimeError(), "RuntimeError"),
        (ExceptionGroup("g", [ExceptionGroup("h", [StoreUnavailable("away")])]), "StoreUnavailable: away"),
        (ExceptionGroup("g", [RuntimeError(), OSError()]), "ExceptionGroup: 2 exceptions"),
    ],
)
def test_texts_of_ours_and_of_the_system_are_shown(
    error: Exception, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(level="info", format="json", process="p")
    logs.error("loop.failed", error=error)
    (line,) = lines(capfd)
    assert line["error"] == shown


def raised(program: str) -> Exception:
    """Return what a line of code raises."""
    try:
        exec(program)  # a literal of this file
    except Exception as error:
        return error
    raise AssertionError(program)


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("lost", "NameError: name lost"),
        ("logging.lost", "AttributeError: module has no attribute lost"),
        ("import broker.lost", "ModuleNotFoundError: module broker.lost"),
        ("from broker.telemetry import lost", "ImportError: module broker.telemetry"),
    ],
)
def test_what_is_wrong_with_code_is_shown(
    program: str, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(level="info", format="json", process="p")
    logs.error("loop.failed", error=raised(program))
    (line,) = lines(capfd)
    assert line["error"] == shown


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("what somebody sent"),
        NameError("what somebody sent", name="what somebody sent"),
        ImportError("what somebody sent", name="what.somebody sent"),
        MemoryError("what somebody sent"),
        RecursionError("what somebody sent"),
    ],
)
def test_such_an_error_is_not_taken_at_its_word(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", format="json", process="p")
    logs.error("loop.failed", error=error)
    assert "somebody" not in capfd.readouterr().err


def test_at_level_debug_every_text_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="debug", format="json", process="p")
    logs.error("loop.failed", error=failure(KeyError, "lost"))
    logs.configure(level="info", format="json", process="p")
    (line,) = lines(capfd)
    assert line["error"] == "KeyError: 'lost'"


CRASHES = {
    "main": "raise ValueError('se' + 'cret')",
    "thread": "t = threading.Thread(target=lambda: int('se' + 'cret')); t.start(); t.join()",
    "finaliser": "type('X', (), {'__del__': lambda self: int('se' + 'cret')})()",
    "task": (
        "import asyncio\nasync def bad(): raise ValueError('se' + 'cret')\n"
        "async def main():\n task = asyncio.create_task(bad())\n await asyncio.sleep(0)\n del task\n"
        " gc.collect()\nasyncio.run(main())"
    ),
    "callback": (
        "import asyncio\nasync def main():\n"
        " asyncio.get_running_loop().call_soon(int, 'se' + 'cret')\n await asyncio.sleep(0)\n"
        "asyncio.run(main())"
    ),
}


@pytest.mark.parametrize("where", sorted(CRASHES))
def test_what_nobody_catches_is_logged_without_its_text(where: str) -> None:
    program = (
        "import gc, threading\nfrom broker.telemetry import logs\n"
        "logs.configure(level='info', format='json', process='p')\nlogs.catch_crashes()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program + CRASHES[where]], capture_output=True, text=True)
    assert "ValueError (" in ended.stderr
    assert "secret" not in ended.stderr
    assert ended.returncode == (1 if where == "main" else 0)


def test_what_libraries_log_comes_out_the_same_way(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", format="json", process="p")
    logging.getLogger("some.library").warning("careful %s", 1)
    (line,) = lines(capfd)
    assert (line["event"], line["logger"], line["message"]) == ("library.logged", "some.library", "careful 1")


def test_text_for_people_is_one_line_too(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", format="text", process="p")
    logs.event("a.b", x=1)
    assert capfd.readouterr().err.endswith(" info    p a.b x=1\n")


@pytest.mark.parametrize(
    ("url", "logged"),
    [
        ("redis://:secret@h:6379/0", "redis://h:6379/0"),
        ("https://u:p@h/hook?token=secret#x", "https://h/hook"),
        ("postgresql://postgres@/db?host=/run/x&password=secret", "postgresql:///db"),
        ("http://[::1", "(not a URL)"),
    ],
)
def test_secrets_in_urls_are_left_out(url: str, logged: str) -> None:
    assert logs.without_secrets(url) == logged
