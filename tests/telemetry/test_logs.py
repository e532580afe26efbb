"""Log events: one JSON object a line, with a constant name, and nothing secret."""

import json
import logging
from collections.abc import Iterator

import pytest

from broker.telemetry import logs


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


def test_an_error_shows_the_exception_with_its_trace(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", format="json", process="p")
    try:
        raise KeyError("lost")
    except KeyError as error:
        logs.error("loop.failed", error=error)
    (line,) = lines(capfd)
    assert line["error"] == "KeyError: 'lost'"
    assert "Traceback" in str(line["trace"])


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
