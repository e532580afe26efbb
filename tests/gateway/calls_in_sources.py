"""Finds the calls of the HTTP contract that test sources make, by reading them: `http.get("/api/agents")`,
`http.request("GET", f"/api/agents/{name}")`, `("GET", INBOX, ...)` in a table of cases.

A path is what stands in the source: constants of the module and f-strings are followed, anything else in an
f-string may be any one segment (at the beginning: any beginning).
"""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ANYTHING = "\0"


def calls_in(source: str) -> set[tuple[str, str]]:
    """Return (method, path) of every call in a module's source; `ANYTHING` stands for what is not literal."""
    tree = ast.parse(source)
    constants: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = _text(node.value, constants)
            if text is not None:
                constants[node.targets[0].id] = text
    return {
        (method, path.partition("?")[0].rstrip("/"))
        for method, path in _calls(tree, constants)
        if "/" in path
    }


def calls_in_all(directory: Path, *, but: frozenset[str] = frozenset()) -> set[tuple[str, str]]:
    """Return the calls in every Python file below a directory, except the files named in `but`."""
    files = [file for file in sorted(directory.rglob("*.py")) if file.name not in but]
    return {call for file in files for call in calls_in(file.read_text())}


def is_call_of(call: tuple[str, str], method: str, template: str) -> bool:
    """Tell whether a call is one of an operation."""
    called, path = call
    if called != method:
        return False
    if path.startswith(ANYTHING):
        known = re.escape(path.lstrip(ANYTHING)).replace(ANYTHING, "[^/]+")
        return bool(known) and re.search(known + "$", re.sub(r"\{\w+\}", "x", template)) is not None
    wanted = "/".join("[^/]+" if part.startswith("{") else re.escape(part) for part in template.split("/"))
    return re.fullmatch(wanted, path) is not None


def _calls(tree: ast.Module, constants: dict[str, str]) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            arguments = node.args
            if isinstance(node.func, ast.Attribute) and node.func.attr.upper() in METHODS and arguments:
                path = _text(arguments[0], constants)
                if path is not None:
                    yield node.func.attr.upper(), path
        elif isinstance(node, ast.Tuple):
            arguments = node.elts
        else:
            continue
        for first, second in itertools.pairwise(arguments):
            if isinstance(first, ast.Constant) and first.value in METHODS:
                path = _text(second, constants)
                if path is not None:
                    yield str(first.value), path


def _text(node: ast.expr, constants: dict[str, str]) -> str | None:
    """Return the text an expression stands for, as far as it can be read; None when it is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            return constants.get(name)
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, constants) or ANYTHING for part in parts)
        case ast.FormattedValue(value=value):
            return _text(value, constants)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (_text(left, constants) or ANYTHING) + (_text(right, constants) or ANYTHING)
        case _:
            return None
