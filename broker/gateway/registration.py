"""The rules for registering and changing an agent, beyond types. Pure: notes faults, makes the record."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from unicodedata import is_normalized

from msgspec import UNSET
from msgspec.structs import replace

from broker.gateway.reading import Faults
from broker.transport.endpoint import parse_endpoint
from broker.transport.signature import Signer
from schema import limits
from schema.agent import Agent, AgentPatch, AgentStatus, ContactPolicy, RegisterRequest, RetrySchedule
from schema.errors import Rejected
from schema.ids import is_id

_NAME_STRANGERS: Final = frozenset("/\\{}|")
"""Not in a name: it stands in paths and next to keys."""
_CHOICES: Final = {
    "status": tuple(status.value for status in AgentStatus),
    "contact_policy": tuple(policy.value for policy in ContactPolicy),
    "endpoint_status": ("active",),
    "retry_schedule": tuple(schedule.value for schedule in RetrySchedule),
}
_INBOX_MAX: Final = {
    "inbox_messages_max": limits.INBOX_MESSAGES_MAX,
    "inbox_bytes_max": limits.INBOX_BYTES_MAX,
}
_LABELS: Final = {
    "type": limits.AGENT_TYPE_CHARS_MAX,
    "status_message": limits.STATUS_MESSAGE_CHARS_MAX,
    "capabilities": limits.CAPABILITY_CHARS_MAX,
    "accepts": limits.MESSAGE_TYPE_CHARS_MAX,
    "allow_from": limits.AGENT_NAME_CHARS_MAX,
}
"""Characters of the texts in a field, or of the one text it is."""


def check_registration(request: RegisterRequest, faults: Faults) -> None:
    """Note everything wrong with a registration."""
    for field in request.__struct_fields__:
        _check(field, getattr(request, field), faults)


def check_patch(patch: AgentPatch, faults: Faults) -> None:
    """Note everything wrong with a change: the rules of a registration, for the fields that are given."""
    given = given_in(patch)
    if "signing_secret" in given:
        del given["signing_secret"]
        faults.add("signing_secret", "is changed by POST /api/agents/{id}/signing-secret/rotate")
    for field, value in given.items():
        _check(field, value, faults)


def given_in(patch: AgentPatch) -> dict[str, Any]:  # fields have as many types
    """Return the fields a change names, with their values."""
    values = {field: getattr(patch, field) for field in patch.__struct_fields__}
    return {field: value for field, value in values.items() if value is not UNSET}


def changed_by(patch: AgentPatch, agent: Agent, *, now_ms: int) -> Agent:
    """Return the record a checked change makes of an agent; the same one where nothing changes."""
    given = given_in(patch)
    enabled = given.pop("endpoint_status", None) is not None and agent.endpoint is not None
    for field, read in _READ.items():
        if given.get(field) is not None:
            given[field] = read(given[field])
    after = replace(agent, **given)
    if after.endpoint != agent.endpoint or (enabled and agent.endpoint_fault is not None):
        after = with_fresh_endpoint(after, now_ms=now_ms)
    return agent if after == agent else replace(after, updated_ms=max(now_ms, agent.updated_ms + 1))


def with_fresh_endpoint(agent: Agent, *, now_ms: int) -> Agent:
    """Return the agent with an endpoint nothing bad is known of: what was held against it is over."""
    return replace(
        agent,
        endpoint_since_ms=0 if agent.endpoint is None else now_ms,
        endpoint_fault=None,
        endpoint_disabled_ms=0,
        endpoint_failing_ms=0,
        endpoint_warned=0,
    )


def agent_of(request: RegisterRequest, *, agent_id: str, signing_secret: str, now_ms: int) -> Agent:
    """Return the record of a checked registration; capabilities keep their order, not their duplicates."""
    return Agent(
        id=agent_id,
        name=request.name,
        type=request.type,
        endpoint=request.endpoint,
        capabilities=tuple(dict.fromkeys(request.capabilities)),
        status=AgentStatus(request.status),
        max_concurrent_jobs=request.max_concurrent_jobs,
        accepts=None if request.accepts is None else tuple(dict.fromkeys(request.accepts)),
        allow_from=None if request.allow_from is None else tuple(dict.fromkeys(request.allow_from)),
        ordered=request.ordered,
        retry_schedule=RetrySchedule(request.retry_schedule),
        signing_secret=signing_secret,
        status_message=request.status_message,
        accepts_work_orders=request.accepts_work_orders,
        contact_policy=ContactPolicy(request.contact_policy),
        max_pushes_per_second=request.max_pushes_per_second,
        endpoint_since_ms=0 if request.endpoint is None else now_ms,
        created_ms=now_ms,
        updated_ms=now_ms,
    )


def check_label(field: str, text: str, chars_max: int, faults: Faults) -> None:
    """Note a text that is empty, too long, padded, or holds what cannot be printed."""
    if not 1 <= len(text) <= chars_max:
        faults.add(field, f"must have 1 to {chars_max} characters")
    elif not text.isprintable() or text != text.strip():
        faults.add(field, "must be printable text without spaces around it")


def check_required(field: str, capabilities: Sequence[str], faults: Faults) -> None:
    """Note everything wrong with the capabilities somebody must have."""
    _check_labels(
        field, capabilities, faults, chars_max=limits.CAPABILITY_CHARS_MAX, count_max=limits.REQUIREMENTS_MAX
    )


def _check(field: str, value: Any, faults: Faults) -> None:  # whatever type the field has
    if value is None:
        return  # a field that takes null: its absence
    match field:
        case "name":
            _check_name(value, faults)
        case "max_concurrent_jobs":
            if not 1 <= value <= limits.CONCURRENT_JOBS_MAX:
                faults.add(field, f"must be 1 to {limits.CONCURRENT_JOBS_MAX}")
        case "max_pushes_per_second":
            if not 1 <= value <= limits.ENDPOINT_PUSHES_PER_SECOND_MAX:
                faults.add(field, f"must be 1 to {limits.ENDPOINT_PUSHES_PER_SECOND_MAX}")
        case "inbox_messages_max" | "inbox_bytes_max":
            if not 0 <= value <= _INBOX_MAX[field]:
                faults.add(field, f"must be 0 (any) to {_INBOX_MAX[field]}")
        case "endpoint":
            _check_endpoint(value, faults)
        case "signing_secret":
            _check_secret(value, faults)
        case "type" | "status_message":
            check_label(field, value, _LABELS[field], faults)
        case "capabilities" | "accepts" | "allow_from":
            _check_labels(field, value, faults, chars_max=_LABELS[field], count_max=limits.CAPABILITIES_MAX)
        case "status" | "retry_schedule" | "contact_policy" | "endpoint_status":
            _check_choice(field, value, _CHOICES[field], faults)


def _check_name(name: str, faults: Faults) -> None:
    check_label("name", name, limits.AGENT_NAME_CHARS_MAX, faults)
    if not _NAME_STRANGERS.isdisjoint(name) or name in (".", ".."):
        faults.add("name", f"must not be a path or hold any of {' '.join(sorted(_NAME_STRANGERS))}")
    if not is_normalized("NFKC", name):
        # Wide letters, or a letter and its accent apart, would make a second name that looks like the first.
        faults.add("name", "must be in Unicode's normal form KC")
    if is_id(name.lower()):
        faults.add("name", "must not look like a UUID: agents are found by either")


def _check_labels(
    field: str, texts: Sequence[str], faults: Faults, *, chars_max: int, count_max: int
) -> None:
    if len(texts) > count_max:
        faults.add(field, f"at most {count_max}")
        return
    for index, text in enumerate(texts):
        check_label(f"{field}[{index}]", text, chars_max, faults)


def _check_choice(field: str, text: str, choices: tuple[str, ...], faults: Faults) -> None:
    if text not in choices:
        faults.add(field, f"must be one of {', '.join(choices)}")


def _check_endpoint(endpoint: str, faults: Faults) -> None:
    if len(endpoint) > limits.ENDPOINT_CHARS_MAX:
        faults.add("endpoint", f"must have at most {limits.ENDPOINT_CHARS_MAX} characters")
        return
    try:
        parse_endpoint(endpoint)
    except Rejected as error:
        faults.add_error("endpoint", error)


def _check_secret(secret: str, faults: Faults) -> None:
    try:
        Signer(secret)
    except (Rejected, ValueError):
        faults.add("signing_secret", "must be whsec_ and the base64 of 24 to 64 bytes")


def _without_duplicates(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


_READ: Final[dict[str, Callable[[Any], Any]]] = {  # from what a request has to what a record has
    "capabilities": _without_duplicates,
    "accepts": _without_duplicates,
    "allow_from": _without_duplicates,
    "status": AgentStatus,
    "retry_schedule": RetrySchedule,
    "contact_policy": ContactPolicy,
}
