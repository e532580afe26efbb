"""Rows of the contract: dead letters."""

from typing import Final

from broker.gateway import dead_letters
from broker.gateway.call import Scope
from broker.gateway.operation import Operation
from schema.dead_letter import DeadLetter, ReplayReply, ReplayRequest
from schema.errors import AgentMismatch, NotFound, StoreUnavailable, StreamsFull, StreamsUnavailable

DEAD_LETTERS: Final = (
    Operation(
        name="listDeadLetters",
        method="GET",
        path="/api/dead-letters",
        summary="List messages that failed or expired",
        tag="Dead letters",
        scope=Scope.DEAD_LETTERS,
        query=dead_letters.ListDeadLetters,
        check_query=dead_letters.check_list,
        replies={200: list[DeadLetter]},
        errors=(AgentMismatch, NotFound, StoreUnavailable),
        handler=dead_letters.list_,
    ),
    Operation(
        name="replayDeadLetters",
        method="POST",
        path="/api/dead-letters/replay",
        summary="Send dead letters again",
        tag="Dead letters",
        scope=Scope.DEAD_LETTERS,
        body=ReplayRequest,
        check=dead_letters.check_replay,
        replies={200: ReplayReply},
        errors=(AgentMismatch, NotFound, StoreUnavailable, StreamsUnavailable, StreamsFull),
        handler=dead_letters.replay,
    ),
)
