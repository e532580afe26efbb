"""What is refused about work orders before anything is asked of a store."""

import json
from typing import Any

import pytest

from broker.gateway.reading import BodyReader
from broker.gateway.work_orders import checking
from schema.errors import Rejected
from schema.work_order import (
    CancelRequest,
    CompleteRequest,
    ProgressRequest,
    RespondRequest,
    WorkOrderRequest,
)

ORDERS = BodyReader(WorkOrderRequest, checking.check_order)
ANSWERS = BodyReader(RespondRequest, checking.check_respond)
ENDS = BodyReader(CompleteRequest, checking.check_complete)
REPORTS = BodyReader(ProgressRequest, checking.check_progress)
CANCELS = BodyReader(CancelRequest, checking.check_cancel)


@pytest.mark.parametrize(
    ("reader", "body", "field"),
    [
        (ORDERS, {"to_agent_id": None}, "to_agent_id"),
        (ORDERS, {"to_agent_id": None, "capabilities": []}, "to_agent_id"),
        (ORDERS, {"capabilities": [" x"]}, "capabilities[0]"),
        (ORDERS, {"capabilities": ["x"] * 33}, "capabilities"),
        (ORDERS, {"title": ""}, "title"),
        (ORDERS, {"title": "  "}, "title"),
        (ORDERS, {"title": "x" * 201}, "title"),
        (ORDERS, {"description": "x" * 20_001}, "description"),
        (ORDERS, {"requirements": [1]}, "requirements"),
        (ORDERS, {"requirements": {"x": "y" * 70_000}}, "requirements"),
        (ORDERS, {"deadline_at": "0001-01-01T00:00:00+14:00"}, "deadline_at"),
        (ORDERS, {"deadline_at": "tomorrow"}, "deadline_at"),
        (ORDERS, {"budget_usd": -1}, "budget_usd"),
        (ORDERS, {"budget_usd": "NaN"}, "budget_usd"),
        (ORDERS, {"budget_usd": "sNaN"}, "budget_usd"),
        (ORDERS, {"budget_usd": "-Infinity"}, "budget_usd"),
        (ORDERS, {"budget_usd": "1e400"}, "budget_usd"),
        (ORDERS, {"budget_usd": "1e999999"}, "budget_usd"),
        (ORDERS, {"budget_usd": "1e-7"}, "budget_usd"),
        (ORDERS, {"budget_usd": "0." + "3" * 5_000}, "budget_usd"),
        (ORDERS, {"budget_usd": 100_000_000_000_000}, "budget_usd"),
        (ORDERS, {"budget_usd": True}, "budget_usd"),
        (ORDERS, {"budget_usd": "ten"}, "budget_usd"),
        (ANSWERS, {"action": "shrug"}, "action"),
        (ANSWERS, {}, "action"),
        (ANSWERS, {"action": "reject", "rejection_reason": "x" * 2_001}, "rejection_reason"),
        (ANSWERS, {"action": "accept", "estimated_completion": "soon"}, "estimated_completion"),
        (ENDS, {"result": {"x": "y" * 140_000}}, "result"),
        (ENDS, {"lease": 3}, "lease"),
        (ENDS, {"failed": "yes"}, "failed"),
        (ENDS, {"lease": "x" * 129}, "lease"),
        (REPORTS, {"percent": 101}, "percent"),
        (REPORTS, {"percent": 1.5}, "percent"),
        (REPORTS, {"note": "x" * 2_001}, "note"),
        (CANCELS, {"reason": "x" * 2_001}, "reason"),
    ],
)
def test_a_bad_field_is_named(reader: BodyReader[Any], body: dict[str, Any], field: str) -> None:
    whole = ({"title": "t", "to_agent_id": "w"} if reader is ORDERS else {}) | body
    with pytest.raises(Rejected) as refused:
        reader.read(json.dumps(whole).encode())
    assert refused.value.field == field
    assert refused.value.status == 422


@pytest.mark.parametrize("written", ["1e400", "1e-20000", "0.1234567"])
def test_a_number_nobody_can_hold_exactly_is_refused(written: str) -> None:
    with pytest.raises(Rejected) as refused:
        ORDERS.read(f'{{"title": "t", "to_agent_id": "w", "budget_usd": {written}}}'.encode())
    assert refused.value.status == 422


def test_no_requirements_are_the_same_as_null_ones() -> None:
    for body in (
        b'{"title": "t", "to_agent_id": "w"}',
        b'{"title":"t","to_agent_id":"w","requirements":null}',
    ):
        assert bytes(ORDERS.read(body).requirements) == b"{}"
