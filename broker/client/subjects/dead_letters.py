"""Operations: dead letters."""

from collections.abc import Iterable
from datetime import datetime

from broker.client.request import Listing, Request, given
from broker.client.subject import ShellT, Subject, listing, operation
from broker.client.values import DeadMessage
from schema.dead_letter import ReplayReply

PATH = "/api/dead-letters"

# Outside the class, because inside it `list` is the operation.
_Rows = list[DeadMessage]


class DeadLetters(Subject[ShellT]):
    """Messages that failed or expired, and sending them once more."""

    @listing("listDeadLetters")
    def list(
        self,
        *,
        agent_id: str | None = None,
        from_agent_id: str | None = None,
        to_agent_id: str | None = None,
        reason: str | None = None,
        message_type: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Listing[DeadMessage]:
        """Yield dead letters, newest first; all are filters. `agent_id`: of either side; `since`, `until`:
        when the messages were created."""
        query = {
            "agent_id": agent_id,
            "from_agent_id": from_agent_id,
            "to_agent_id": to_agent_id,
            "reason": reason,
            "message_type": message_type,
            "since": _moment(since),
            "until": _moment(until),
        }
        return Listing(first=Request(method="GET", path=PATH, reply=_Rows, query=query))

    __call__ = list

    @operation("replayDeadLetters")
    def replay(
        self,
        ids: Iterable[str] | None = None,
        *,
        agent_id: str | None = None,
        from_agent_id: str | None = None,
        to_agent_id: str | None = None,
        reason: str | None = None,
        message_type: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Request[ReplayReply]:
        """Send dead letters again, by id or by filter, so many at a time; the reply has the cursor to go on.

        They keep their ids and gain a new round of attempts. Raises: Rejected without any filter.
        """
        body = given(
            ids=None if ids is None else tuple(ids),
            agent_id=agent_id,
            from_agent_id=from_agent_id,
            to_agent_id=to_agent_id,
            reason=reason,
            message_type=message_type,
            since=since,
            until=until,
            limit=limit,
            cursor=cursor,
        )
        # Repeatable: what was replayed is no dead letter any more, and is skipped.
        return Request(method="POST", path=f"{PATH}/replay", reply=ReplayReply, body=body)


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
