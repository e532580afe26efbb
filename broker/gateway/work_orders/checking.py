"""What must be true of requests about work orders, beyond their types. Pure: notes faults."""

from datetime import datetime
from decimal import Decimal
from typing import Final

import msgspec
from msgspec import Struct

from broker.core import budget
from broker.gateway.paging import LIMIT_DEFAULT
from broker.gateway.reading import Faults
from broker.gateway.registration import check_required
from schema import limits
from schema.ids import is_id
from schema.times import as_utc
from schema.work_order import (
    CancelRequest,
    CompleteRequest,
    OrderStatus,
    ProgressRequest,
    RespondRequest,
    WorkOrderRequest,
)

ROLES: Final = ("worker", "requester")
ACTIONS: Final = ("accept", "reject")
TOKEN_CHARS_MAX: Final = 128
_STATUSES: Final = tuple(status.value for status in OrderStatus)


class RequesterQuery(Struct):
    """Query of `POST /work-order`: who orders; `agent_id` says the same."""

    from_agent_id: str | None = None
    agent_id: str | None = None


class ActorQuery(Struct):
    """Query of everything else that acts on an order: who acts."""

    agent_id: str | None = None
    from_agent_id: str | None = None


class ListQuery(Struct):
    """Query of `GET /work-orders`."""

    agent_id: str | None = None
    role: str = "worker"
    status: str | None = None
    limit: int = LIMIT_DEFAULT
    cursor: str | None = None


def check_order(request: WorkOrderRequest, faults: Faults) -> None:
    """Note everything wrong with a new work order."""
    if not 1 <= len(request.title) <= limits.WORK_ORDER_TITLE_CHARS_MAX or not request.title.strip():
        faults.add("title", f"must have 1 to {limits.WORK_ORDER_TITLE_CHARS_MAX} characters")
    if len(request.description) > limits.WORK_ORDER_DESCRIPTION_CHARS_MAX:
        faults.add("description", f"must have at most {limits.WORK_ORDER_DESCRIPTION_CHARS_MAX} characters")
    _check_worker(request, faults)
    if bytes(request.requirements) == b"null":
        request.requirements = msgspec.Raw(b"{}")
    if bytes(request.requirements)[:1] != b"{":
        faults.add("requirements", "must be a JSON object")
    _check_size("requirements", request.requirements, limits.WORK_ORDER_REQUIREMENTS_BYTES_MAX, faults)
    if isinstance(request.budget_usd, Decimal) and (fault := budget.fault_of(request.budget_usd)):
        faults.add("budget_usd", fault)
    check_moment("deadline_at", request.deadline_at, faults)


def check_respond(request: RespondRequest, faults: Faults) -> None:
    """Note everything wrong with an answer to a work order."""
    if request.action not in ACTIONS:
        faults.add("action", f"must be one of {', '.join(ACTIONS)}")
    _check_text("rejection_reason", request.rejection_reason, faults)
    check_moment("estimated_completion", request.estimated_completion, faults)


def check_complete(request: CompleteRequest, faults: Faults) -> None:
    """Note everything wrong with a report of an end."""
    _check_token(request.lease, faults)
    _check_text("reason", request.reason, faults)
    _check_size("result", request.result, limits.WORK_ORDER_RESULT_BYTES_MAX, faults)


def check_progress(request: ProgressRequest, faults: Faults) -> None:
    """Note everything wrong with a report of progress."""
    _check_token(request.lease, faults)
    _check_text("note", request.note, faults)
    if request.percent is not None and not 0 <= request.percent <= 100:
        faults.add("percent", "must be 0 to 100")


def check_cancel(request: CancelRequest, faults: Faults) -> None:
    """Note everything wrong with a cancellation."""
    _check_text("reason", request.reason, faults)


def check_list(query: ListQuery, faults: Faults) -> None:
    """Note everything wrong with the query of a list of work orders."""
    if query.role not in ROLES:
        faults.add("role", f"must be one of {', '.join(ROLES)}")
    if query.status is not None and query.status not in _STATUSES:
        faults.add("status", f"must be one of {', '.join(_STATUSES)}")
    if query.limit < 1:
        faults.add("limit", f"must be 1 to {limits.PAGE_ROWS_MAX}")


def check_moment(field: str, moment: datetime | None, faults: Faults) -> None:
    """Note a moment that UTC's years do not hold."""
    try:
        if moment is not None:
            as_utc(moment)
    except OverflowError:
        faults.add(field, "is outside the years 1 to 9999 in UTC")


def order_id_of(path: dict[str, str]) -> str | None:
    """Return the id of the work order in a path; None where it is none."""
    order_id = path["work_order_id"].lower()
    return order_id if is_id(order_id) else None


def _check_worker(request: WorkOrderRequest, faults: Faults) -> None:
    capabilities = request.capabilities
    if request.to_agent_id is None and not capabilities:
        faults.add("to_agent_id", "name a worker, or say in capabilities what it must be capable of")
    if capabilities is not None:
        check_required("capabilities", capabilities, faults)


def _check_size(field: str, raw: msgspec.Raw, bytes_max: int, faults: Faults) -> None:
    if len(bytes(raw)) > bytes_max:
        faults.add(field, f"must have at most {bytes_max} bytes")


def _check_text(field: str, text: str | None, faults: Faults) -> None:
    if text is not None and len(text) > limits.WORK_ORDER_TEXT_CHARS_MAX:
        faults.add(field, f"must have at most {limits.WORK_ORDER_TEXT_CHARS_MAX} characters")


def _check_token(token: str | None, faults: Faults) -> None:
    if token is not None and len(token) > TOKEN_CHARS_MAX:
        faults.add("lease", f"must have at most {TOKEN_CHARS_MAX} characters")
