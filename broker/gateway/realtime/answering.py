"""What a gateway does with the frames of a WebSocket, for the agent whose session it is.

Each frame gets one answer. What is wrong with one is told, with the error the same thing would get over
HTTP, and the connection stays.
"""

from typing import Final

from msgspec import UNSET, Raw

from broker.gateway import errors, publishing
from broker.gateway.accepting import accept
from broker.gateway.access import authorize
from broker.gateway.call import Principal, Scope
from broker.gateway.reading import BodyReader
from broker.gateway.realtime.frames import (
    NO_JSON,
    AckFrame,
    HeartbeatFrame,
    ReplyFrame,
    SendFrame,
    answer,
    read_frame,
    refusal,
)
from broker.gateway.realtime.session import Session
from broker.gateway.sending import check_message
from broker.gateway.services import Services
from broker.gateway.status import REASON_CHARS_MAX, ROW_WAIT_MS, drop_copy, row_within, tell_change
from broker.store import messages as stored_messages
from broker.streams.acknowledgement import Acknowledged
from broker.telemetry import logs, metrics
from schema.codec import encode
from schema.errors import AgentMismatch, BrokerError, NotFound, Rejected
from schema.ids import is_id
from schema.message import SendRequest, Status
from schema.times import from_ms

_PUBLISHED: Final = metrics.PUBLISHED.child(door="websocket")
_ACKNOWLEDGED: Final = {
    status: metrics.ACKNOWLEDGED.child(status=status.value)
    for status in (Status.DELIVERED, Status.PROCESSED, Status.FAILED)
}
_FURTHER: Final = frozenset((Status.DELIVERED.value, Status.PROCESSED.value, Status.FAILED.value))
"""Statuses of a message that was acknowledged: saying once more that it arrived is fine."""
_requests: Final = BodyReader(SendRequest, check_message)


class Answerer:
    """Answers the frames of one session."""

    def __init__(self, services: Services, principal: Principal, session: Session) -> None:
        self._services = services
        self._principal = principal
        self._session = session

    async def answer(self, data: bytes) -> bytes:
        """Do what a frame asks for; return the frame that answers it."""
        try:
            return await self._do(data)
        except BrokerError as error:
            return refusal(errors.presentable(error), data)
        except Exception as error:
            # Top of the frame: a bug of ours. It costs this frame, not the connection.
            logs.error("realtime.frame_failed", error=error, session=self._session.session_id)
            return refusal(errors.Internal(errors.LOGGED), data)

    async def _do(self, data: bytes) -> bytes:
        frame = read_frame(data)
        match frame:
            case AckFrame():
                await self._acknowledge(frame)
                return answer("acked", frame.ref, message_id=frame.message_id)
            case SendFrame():
                authorize(self._principal, Scope.MESSAGES_SEND)
                message_id = await self._send(_requests.read(bytes(frame.message)))
                return answer("accepted", frame.ref, message_id=message_id)
            case ReplyFrame():
                authorize(self._principal, Scope.MESSAGES_SEND)
                message_id = await self._reply(frame)
                return answer("accepted", frame.ref, message_id=message_id)
            case HeartbeatFrame():
                authorize(self._principal, Scope.HEARTBEAT)
                at_ms = await self._services.presence.heartbeat(self._session.agent_id)
                return answer("heartbeat", frame.ref, at=from_ms(at_ms))

    # --- acknowledging ----------------------------------------------------------------------------------

    async def _acknowledge(self, frame: AckFrame) -> None:
        """Acknowledge by the mailbox, where the message still lies in it; else the record decides."""
        authorize(self._principal, Scope.MESSAGES_UPDATE)
        if frame.reason is not None and len(frame.reason) > REASON_CHARS_MAX:
            raise Rejected(f"reason: must have at most {REASON_CHARS_MAX} characters", field="reason")
        message_id, status = frame.message_id.lower(), Status(frame.status)
        known = self._session.unacknowledged.get(message_id)
        if known is None or not await self._in_mailbox(frame, message_id, status):
            await self._on_record(frame, message_id, status)
        self._session.settle((message_id,))
        _ACKNOWLEDGED[status].inc()

    async def _in_mailbox(self, frame: AckFrame, message_id: str, status: Status) -> bool:
        known = self._session.unacknowledged[message_id]
        done = Acknowledged(
            known.lane,
            known.entry,
            message_id,
            status,
            result=UNSET if bytes(frame.result) == NO_JSON else frame.result,
            reason=frame.reason,
        )
        (was_there,) = await self._services.acknowledger.acknowledge(self._session.agent_id, [done])
        return was_there

    async def _on_record(self, frame: AckFrame, message_id: str, status: Status) -> None:
        """Acknowledge what is in the mailbox no more (it was delivered before), or came by another session.

        Raises: NotFound, IllegalTransition, StoreUnavailable, StreamsUnavailable.
        """
        services = self._services
        row = await row_within(services, message_id, within_ms=ROW_WAIT_MS) if is_id(message_id) else None
        if row is None or row.to_agent_id != self._session.agent_id:
            raise NotFound("no such message")
        if status is Status.DELIVERED and row.status in _FURTHER:
            if (stored := await stored_messages.find(services.pool, message_id)) is not None:
                await drop_copy(services, stored)
            return
        result = bytes(frame.result)
        outcome = await stored_messages.transition(
            services.pool,
            message_id,
            status,
            result=None if result == NO_JSON else result,
            reason=frame.reason,
            now_ms=services.now_ms(),
        )
        await tell_change(services, outcome, status)

    # --- sending ----------------------------------------------------------------------------------------

    async def _send(self, request: SendRequest) -> str:
        """Publish a message as the agent; return its id. Raises: as `POST /api/messages`."""
        services, agent_id = self._services, self._session.agent_id
        claim = request.from_agent_id
        if claim is not None and await services.agents.find_or_trust(claim) != agent_id:
            raise AgentMismatch("this session belongs to another agent", field="from_agent_id")
        if (earlier := await publishing.sent_before(services, request, agent_id)) is not None:
            return earlier.id
        envelope = await accept(services, request, agent_id)
        services.gatekeeper.spend(agent_id, envelope)
        await services.publish([envelope])
        _PUBLISHED.inc()
        return envelope.id

    async def _reply(self, frame: ReplyFrame) -> str:
        message_id = frame.message_id.lower()
        sender, conversation_id = await self._asker(message_id)
        if sender is None:
            raise Rejected("this message names no sender to reply to", field="message_id")
        request = SendRequest(
            to_agent_id=sender,
            conversation_id=conversation_id,
            message_type=frame.message_type,
            content=Raw(bytes(frame.content)),
            reply_to=message_id,
        )
        return await self._send(_requests.read(encode(request)))

    async def _asker(self, message_id: str) -> tuple[str | None, str | None]:
        """Return the sender and the conversation of a message the agent got. Raises: NotFound."""
        known = self._session.unacknowledged.get(message_id)
        if known is not None:
            return known.sender, known.conversation_id
        row = await stored_messages.get(self._services.pool, message_id) if is_id(message_id) else None
        if row is None or row.to_agent_id != self._session.agent_id:
            raise NotFound("no such message")
        return row.from_agent_id, row.conversation_id
