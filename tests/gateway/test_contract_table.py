"""The table of operations, row by row: nothing is served that is not documented, typed, guarded, tested and
callable from the client."""

import re
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest
from calls_in_sources import calls_in, calls_in_all, is_call_of

import broker.gateway.errors
import schema.errors
from broker.gateway.call import AGENT_SCOPES, Scope
from broker.gateway.openapi.document import errors_of
from broker.gateway.openapi.words import WORDS
from broker.gateway.operation import Operation
from broker.gateway.operations import OPERATIONS
from schema.errors import BrokerError

TESTS = Path(__file__).parents[1]
CLIENT = Path(__file__).parents[2] / "broker" / "client"

OPEN = {"healthz", "readyz", "openapi", "docs", "docsStyle", "docsScript"}
"""Operations that need no key. Nothing else may join them by leaving its scope out."""
FOR_BROWSERS = {"healthz", "openapi", "docs", "docsStyle", "docsScript"}
"""Operations a client program has no use for."""
INSIDE = {"error", "fenced", "data_fault", "unavailable", "unsafe_deployment", "not_found", "conflict"}
"""Codes that are families, or never leave the process; some are answered all the same."""
GENERATED = frozenset({"test_authorisation_matrix.py", "calls_in_sources.py"})
"""Files that walk the table itself: being called there shows nothing about what an operation does."""

EACH = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
CALLS = calls_in_all(TESTS, but=GENERATED)
CLIENT_SOURCES = [file.read_text() for file in CLIENT.rglob("*.py")]
CLIENT_OPERATIONS = {
    name for source in CLIENT_SOURCES for name in re.findall(r'@(?:operation|listing)\(\s*"(\w+)"', source)
}


@EACH
def test_a_row_is_documented(operation: Operation) -> None:
    assert re.fullmatch(r"[A-Z].{3,60}[^.]", operation.summary)
    assert re.fullmatch(r"[a-z]+([A-Z][a-z]*)*", operation.name)
    documented = operation.handler.__doc__ or ""
    assert re.match(r"[A-Z]\w+ [^.]+", documented), "the docstring is the description people read"
    assert operation.tag


@EACH
def test_a_row_names_its_types(operation: Operation) -> None:
    assert any(200 <= status < 300 for status in operation.replies)
    for status, type_ in operation.replies.items():
        assert type_ is not None or status == 204 or operation.media_type != "application/json"
    assert issubclass(operation.query, msgspec.Struct)
    assert operation.body is None or operation.method in ("POST", "PUT", "PATCH")
    assert 0 < operation.body_bytes_max <= 8 * 1024 * 1024


@EACH
def test_a_row_needs_a_scope_unless_it_is_on_the_list(operation: Operation) -> None:
    assert (operation.scope is None) == (operation.name in OPEN)
    assert operation.scope is None or isinstance(operation.scope, Scope)


@EACH
def test_a_row_lists_its_errors(operation: Operation) -> None:
    statuses = {error.status for error in errors_of(operation)}
    assert operation.errors or operation.name in OPEN | {"sendBatch"}
    assert all(issubclass(error, BrokerError) for error in operation.errors)
    if operation.path_parameters:
        assert 404 in statuses, "a path with a parameter can name what is not there"


@EACH
def test_some_test_calls_it(operation: Operation) -> None:
    assert any(is_call_of(call, operation.method, operation.path) for call in CALLS)


@EACH
def test_the_client_has_a_method_for_it(operation: Operation) -> None:
    if operation.streams:  # not a request with a reply: the client's agent opens it by itself
        assert any(f'"{operation.path}"' in source for source in CLIENT_SOURCES)
    else:
        assert operation.name in CLIENT_OPERATIONS or operation.name in FOR_BROWSERS


def test_the_client_knows_no_operation_that_is_not_there() -> None:
    assert CLIENT_OPERATIONS - {operation.name for operation in OPERATIONS} == set()


def test_names_and_routes_are_unique() -> None:
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)


def test_one_place_in_a_path_has_one_name() -> None:
    names: dict[str, set[str]] = defaultdict(set)
    for operation in OPERATIONS:
        for name in operation.path_parameters:
            names[operation.path.partition("{" + name + "}")[0]].add(name)
            assert name in WORDS
    assert {place: found for place, found in names.items() if len(found) > 1} == {}


def test_every_scope_is_used_and_an_agent_has_all_but_two() -> None:
    assert {operation.scope for operation in OPERATIONS} - {None} == set(Scope)
    assert set(Scope) - AGENT_SCOPES == {Scope.AGENTS_WRITE, Scope.STOPS}


def test_every_error_is_documented_somewhere() -> None:
    classes = [
        value
        for module in (schema.errors, broker.gateway.errors)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BrokerError)
    ]
    documented = {error.code for operation in OPERATIONS for error in errors_of(operation)}
    # These are told before an operation is known.
    shell = {"method_not_allowed", "head_too_large", "too_many_connections"}
    assert {error.code for error in classes} - documented - shell - INSIDE == set()


def test_a_code_has_one_status() -> None:
    statuses: dict[str, set[int]] = defaultdict(set)
    for operation in OPERATIONS:
        for error in errors_of(operation):
            statuses[error.code].add(error.status)
    assert {code: found for code, found in statuses.items() if len(found) > 1} == {}


# --- the finder of calls ----------------------------------------------------------------------------------

SOURCE = """
INBOX = "/api/v1/messaging/inbox"
async def test_it(http, agent):
    await http.get(INBOX, params={})
    await http.post(f"/api/agents/{agent['id']}/heartbeat?x=1")
    await http.request("DELETE", "/api/agents/" + agent["id"])
    await http.put(f"{BASE}/presence", json={})
CASES = [("PATCH", "/api/agents/one", 200)]
"""


def test_calls_are_found_however_they_are_written() -> None:
    calls = calls_in(SOURCE)
    for method, template in (
        ("GET", "/api/v1/messaging/inbox"),
        ("POST", "/api/agents/{agent_id}/heartbeat"),
        ("DELETE", "/api/agents/{agent_id}"),
        ("PUT", "/api/v1/messaging/presence"),
        ("PATCH", "/api/agents/{agent_id}"),
    ):
        assert any(is_call_of(call, method, template) for call in calls), template
    for method, template in (
        ("GET", "/api/agents/{agent_id}"),
        ("GET", "/api/v1/messaging/inbox/{message_id}"),
        ("POST", "/api/agents/{agent_id}"),
        ("DELETE", "/api/agents/{agent_id}/keys/{key_id}"),
        ("PUT", "/api/v1/messaging/work-order"),
    ):
        assert not any(is_call_of(call, method, template) for call in calls), template
