"""Operations: statistics."""

from broker.client.request import Request
from broker.client.subject import ShellT, Subject, operation
from schema.statistics import StatisticsReply


class Statistics(Subject[ShellT]):
    """What has been going on."""

    @operation("showStatistics")
    def show(self, agent_id: str | None = None, *, days: int | None = None) -> Request[StatisticsReply]:
        """Return the statistics of an agent, or (operator) of the whole deployment: of messages created today
        and on so many `days` before. Raises: AgentMismatch."""
        query = {"agent_id": agent_id, "days": days}
        return Request(method="GET", path="/api/v1/messaging/stats", reply=StatisticsReply, query=query)

    __call__ = show
