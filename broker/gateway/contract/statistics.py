"""Rows of the contract: statistics."""

from typing import Final

from broker.gateway.call import Scope
from broker.gateway.operation import Operation
from broker.gateway.statistics import overview
from schema.errors import AgentMismatch, NotFound, StoreUnavailable
from schema.statistics import StatisticsReply

STATISTICS: Final = (
    Operation(
        name="showStatistics",
        method="GET",
        path="/api/v1/messaging/stats",
        summary="Show how messages fared",
        tag="Statistics",
        scope=Scope.STATISTICS,
        query=overview.StatisticsQuery,
        check_query=overview.check_query,
        replies={200: StatisticsReply},
        errors=(AgentMismatch, NotFound, StoreUnavailable),
        handler=overview.show,
    ),
)
