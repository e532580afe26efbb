"""The rules for registering an agent, beyond types. Pure: notes faults, makes the record."""

from typing import Final

from broker.gateway.reading import Faults
from broker.transport.endpoint import parse_endpoint
from broker.transport.signature import Signer
from schema import limits
from schema.agent import Agent, AgentStatus, ContactPolicy, RegisterRequest, RetrySchedule
from schema.errors import Rejected
from schema.ids import is_id

_NAME_STRANGERS: Final = frozenset("/\\{}|")
"""Not in a name: it stands in paths and next to keys."""
_STATUSES: Final = tuple(status.value for status in AgentStatus)
_POLICIES: Final = tuple(policy.value for policy in ContactPolicy)
_SCHEDULES: Final = tuple(schedule.value for schedule in RetrySchedule)


def check_registration(request: RegisterRequest, faults: Faults) -> None:
    """Note everything wrong with a registration."""
    _check_name(request.name, faults)
    check_label("type", request.type, limits.AGENT_TYPE_CHARS_MAX, faults)
    _check_labels("capabilities", request.capabilities, limits.CAPABILITY_CHARS_MAX, faults)
    _check_labels("accepts", request.accepts or [], limits.MESSAGE_TYPE_CHARS_MAX, faults)
    _check_labels("allow_from", request.allow_from or [], limits.AGENT_NAME_CHARS_MAX, faults)
    _check_choice("status", request.status, _STATUSES, faults)
    _check_choice("retry_schedule", request.retry_schedule, _SCHEDULES, faults)
    _check_choice("contact_policy", request.contact_policy, _POLICIES, faults)
    if request.status_message is not None:
        check_label("status_message", request.status_message, limits.STATUS_MESSAGE_CHARS_MAX, faults)
    if not 1 <= request.max_concurrent_jobs <= limits.CONCURRENT_JOBS_MAX:
        faults.add("max_concurrent_jobs", f"must be 1 to {limits.CONCURRENT_JOBS_MAX}")
    if request.endpoint is not None:
        _check_endpoint(request.endpoint, faults)
    if request.signing_secret is not None:
        _check_secret(request.signing_secret, faults)


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
        created_ms=now_ms,
        updated_ms=now_ms,
    )


def check_label(field: str, text: str, chars_max: int, faults: Faults) -> None:
    """Note a text that is empty, too long, padded, or holds what cannot be printed."""
    if not 1 <= len(text) <= chars_max:
        faults.add(field, f"must have 1 to {chars_max} characters")
    elif not text.isprintable() or text != text.strip():
        faults.add(field, "must be printable text without spaces around it")


def _check_name(name: str, faults: Faults) -> None:
    check_label("name", name, limits.AGENT_NAME_CHARS_MAX, faults)
    if not _NAME_STRANGERS.isdisjoint(name) or name in (".", ".."):
        faults.add("name", f"must not be a path or hold any of {' '.join(sorted(_NAME_STRANGERS))}")
    if is_id(name.lower()):
        faults.add("name", "must not look like a UUID: agents are found by either")


def _check_labels(field: str, texts: list[str], chars_max: int, faults: Faults) -> None:
    if len(texts) > limits.CAPABILITIES_MAX:
        faults.add(field, f"at most {limits.CAPABILITIES_MAX}")
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
