"""Structured events on stderr: one JSON object a line, with a constant name (`delivery.settled`).

Fields are ids, sizes, statuses and reasons. Never a body, a key, a signature, or the query or userinfo of a
URL (`without_secrets`). A line goes out in one write, so that lines of several processes never mix. What the
libraries log through `logging` comes out the same way.

An exception is shown by its type and where it came from. Its text is shown only where we have written it
ourselves (`BrokerError`), the system has (`OSError`), or the interpreter has and quotes nothing but code
(`NameError`, `AttributeError`, `ImportError`): any other may quote what it choked on, which is somebody's
message. At level debug every text is shown.
"""

import logging
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from schema.errors import BrokerError

Level = Literal["debug", "info", "warning", "error"]
Field = str | int | float | bool | None | BaseException | list[str]

VALUE_CHARS_MAX: Final = 500
TRACE_CHARS_MAX: Final = 4_000
TRACE_DEPTH_MAX: Final = 8
"""Causes of causes, and members of a group, that are shown."""
_RANK: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_encode: Final = msgspec.json.Encoder().encode


class _State:
    """What `configure` decided."""

    threshold = _RANK["info"]
    text = False
    process = ""


def configure(*, level: Level, format: Literal["json", "text"], process: str) -> None:
    """Set what is logged and how; `process` names this process in every event."""
    _State.threshold = _RANK[level]
    _State.text = format == "text"
    _State.process = process
    logging.basicConfig(level=max(_State.threshold, logging.INFO), handlers=[_Bridge()], force=True)
    logging.captureWarnings(capture=True)


def debug(name: str, **fields: Field) -> None:
    """Log what only somebody looking for a fault wants to see."""
    if _State.threshold <= _RANK["debug"]:
        _write("debug", name, fields)


def event(name: str, **fields: Field) -> None:
    """Log a unit of work that ended as it should."""
    if _State.threshold <= _RANK["info"]:
        _write("info", name, fields)


def warning(name: str, **fields: Field) -> None:
    """Log what somebody should know about although the work goes on."""
    if _State.threshold <= _RANK["warning"]:
        _write("warning", name, fields)


def error(name: str, **fields: Field) -> None:
    """Log what somebody must look at. An exception among the fields is shown with its traceback."""
    trace = [field for field in fields.values() if isinstance(field, BaseException)]
    if trace:
        fields["trace"] = "".join(_trace(trace[0]))[-TRACE_CHARS_MAX:]
    _write("error", name, fields)


def catch_crashes() -> None:
    """Log what nobody catches, in this thread or another; Python's own way shows its text."""

    def crashed(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        _log_crash(error)

    sys.excepthook = crashed
    threading.excepthook = lambda args: _log_crash(args.exc_value)
    sys.unraisablehook = lambda args: _log_crash(args.exc_value)


def described(error: BaseException) -> str:
    """Return an exception's type, and its text where that can hold nothing of anybody's."""
    kind = type(error).__name__
    if isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) == 1:
            return described(error.exceptions[0])
        return f"{kind}: {len(error.exceptions)} exceptions"
    if _State.threshold <= _RANK["debug"] or isinstance(error, BrokerError):
        return f"{kind}: {error}"
    if isinstance(error, OSError):
        return f"{kind}: {os.strerror(error.errno)}" if error.errno else kind
    if (text := _of_code(error)) is not None:
        return f"{kind}: {text}"
    return f"{kind} (its text is shown at LOG_LEVEL debug only)" if str(error) else kind


def _of_code(error: BaseException) -> str | None:
    """Return what an error says about a name in code; None for any other error. Its own text is not taken: a
    library may raise the same kind and say anything. Names are, where they are those of Python."""
    match error:
        case NameError(name=str(name)) if name.isidentifier():
            return f"name {name}"
        case AttributeError(name=str(name), obj=owner) if name.isidentifier():
            return f"{type(owner).__name__} has no attribute {name}"
        case ImportError(name=str(name)) if name.replace(".", "_").isidentifier():
            return f"module {name}"
    return None


def without_secrets(url: str) -> str:
    """Return scheme, host, port and path of a URL: what may be logged of it."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _write(level: Level, name: str, fields: dict[str, Field]) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    shown = {
        key: _shown(value, TRACE_CHARS_MAX if key == "trace" else VALUE_CHARS_MAX)
        for key, value in fields.items()
    }
    if _State.text:
        rest = " ".join(f"{key}={value}" for key, value in shown.items())
        line = f"{now} {level:7} {_State.process} {name} {rest}\n".encode(errors="replace")
    else:
        head = {"at": now, "level": level, "event": name, "process": _State.process, "pid": os.getpid()}
        line = _encode(head | shown) + b"\n"
    try:
        os.write(_descriptor(), line)
    except OSError:
        # Nobody reads our stderr any more; work does not stop for that.
        return


def _descriptor() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return 2


def _shown(value: Field, chars_max: int) -> str | int | float | bool | list[str] | None:
    if isinstance(value, BaseException):
        value = described(value)
    if isinstance(value, str):
        # A lone surrogate (a file name, a header) cannot be encoded.
        return value[:chars_max].encode(errors="replace").decode()
    return value


def _trace(error: BaseException, depth: int = 0) -> list[str]:
    """Return the lines of a traceback, with its causes first and the members of a group last."""
    if depth > TRACE_DEPTH_MAX:
        return []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [] if cause is None else [*_trace(cause, depth + 1), "which led to\n"]
    lines += ["Traceback (most recent call last):\n", *traceback.format_tb(error.__traceback__)]
    lines.append(f"{described(error)}\n")
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions[:TRACE_DEPTH_MAX]:
            lines += ["among them\n", *_trace(member, depth + 1)]
    return lines


def _log_crash(crash: BaseException | None) -> None:
    if isinstance(crash, KeyboardInterrupt):
        return
    error("process.crashed", error=crash)


class _Bridge(logging.Handler):
    """Passes on what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.name == "asyncio":
            # Behind that come arguments, and the repr of tasks and futures with the text of what they raised.
            message = message.partition("\n")[0].partition("(")[0]
        fields: dict[str, Field] = {"logger": record.name, "message": message}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = record.exc_info[1]
        if record.levelno >= logging.ERROR:
            error("library.logged", **fields)
        elif record.levelno >= logging.WARNING:
            warning("library.logged", **fields)
        else:
            debug("library.logged", **fields)
