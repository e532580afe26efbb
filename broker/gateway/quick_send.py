"""The short way of `POST /api/messages`, beside the framework: the same contract for less.

A request goes this way when nothing about it has to be asked: it waits for `accepted` or `recorded`, its key
was proved before, its recipient is remembered and takes messages of everybody, and it has no header or field
that needs more. Whatever is unusual, and whatever is wrong with it, goes on to the framework untouched: until
it publishes this way changes nothing, so those refusals are written in one place only.

What it must not do is decide: each of its questions has the answer "yes", or "ask the ordinary way".
"""

import asyncio
from functools import partial
from typing import Final

from msgspec import ValidationError

from broker.gateway import plain_messages
from broker.gateway.accepting import accept_at_once
from broker.gateway.call import Principal, Scope
from broker.gateway.exchange import Counted, Exchange, ShortWay
from broker.gateway.operation import Operation
from broker.gateway.publishing import PUBLISHED, expect, is_new, pending_view, publish_and_wait, reply_of
from broker.gateway.reading import BodyReader
from broker.gateway.services import Services
from broker.gateway.waiting import Expectation, Rung, Waiter
from broker.streams.ingress import Written, written
from schema import limits
from schema.codec import encode
from schema.errors import BrokerError
from schema.message import Envelope, MessageView, SendRequest
from schema.times import from_ms

PATH: Final = "/api/messages"
Made = tuple[Written, str, bytes]
"""A message as it travels, its id, and what its publisher is shown."""
_JSON: Final = (None, b"application/json")
_UNUSUAL: Final = (b"x-agent-id", b"idempotency-key", b"content-encoding")
"""Headers that the ordinary way reads and this one does not."""


def ways_of_sending(services: Services, operation: Operation) -> dict[bytes, ShortWay]:
    """Return the short ways by their targets."""
    send = QuickSend(services, operation)
    return {
        b"/api/messages?wait=accepted": send.accepted,
        b"/api/messages?wait=recorded": send.recorded,
        b"/api/messages": send.recorded,  # which is what it means
    }


class QuickSend:
    """Sends what it can."""

    def __init__(self, services: Services, operation: Operation) -> None:
        self._services = services
        self._reader = BodyReader[SendRequest](operation.body, operation.check)
        self._bytes_max = operation.body_bytes_max
        self._counted = Counted(operation)

    def accepted(self, exchange: Exchange) -> bool:
        """Publish, and answer as soon as the message is on disk."""
        asked = self._asked(exchange)
        if asked is None:
            return False
        principal, request = asked
        made = self._plain(principal, request) or self._other(principal, request)
        if made is None:
            return False
        message, message_id, view = made
        try:
            stored = self._services.begin_publishing(principal.agent_id, message)
        except BrokerError as error:
            self._counted.count(exchange, exchange.refuse(error))
        else:
            stored.add_done_callback(partial(self._answer_accepted, exchange, message_id, view))
        return True

    def recorded(self, exchange: Exchange) -> bool:
        """Publish, and answer when the message is on record, or time is up."""
        asked = self._asked(exchange)
        envelope = None if asked is None else self._envelope(*asked)
        if asked is None or envelope is None:
            return False
        _, request = asked
        expectation = expect(self._services, request, envelope, Rung.RECORDED)
        exchange.run(self._answer_recorded(exchange, envelope, expectation))
        return True

    def _answer_accepted(
        self, exchange: Exchange, message_id: str, view: bytes, stored: asyncio.Future[None]
    ) -> None:
        error = stored.exception()
        if error is not None:
            self._counted.count(exchange, exchange.fail(error, path=PATH))
            return
        PUBLISHED.inc()
        self._answer(exchange, 202, message_id, view)

    async def _answer_recorded(
        self, exchange: Exchange, envelope: Envelope, expectation: Expectation[Waiter]
    ) -> None:
        try:
            view = await publish_and_wait(
                self._services, envelope, expectation, timeout_ms=limits.WAIT_MS_DEFAULT
            )
        except Exception as error:  # the top of the request
            self._counted.count(exchange, exchange.fail(error, path=PATH))
        else:
            self._answer(exchange, 201, view.id, self._shown(view))

    def _answer(self, exchange: Exchange, status: int, message_id: str, view: bytes) -> None:
        exchange.answer(status, view, b"location: /api/messages/%b\r\n" % message_id.encode())
        self._counted.count(exchange, status)

    def _shown(self, view: MessageView) -> bytes:
        return encode(reply_of(self._services, view, 200).body)

    def _asked(self, exchange: Exchange) -> tuple[Principal, SendRequest] | None:
        """Return who asks for what, if that is known; the rules for it are not checked yet."""
        services = self._services
        principal = known_caller(services, exchange, Scope.MESSAGES_SEND)
        if principal is None or len(exchange.body) > self._bytes_max:
            return None
        try:
            request = self._reader.decoded(exchange.body)
        except (BrokerError, ValidationError):
            return None
        claimed = request.from_agent_id
        return (principal, request) if claimed is None or claimed == principal.agent_id else None

    def _plain(self, principal: Principal, request: SendRequest) -> Made | None:
        """Return a plain message as it will be published, if nobody has to be asked about it."""
        services = self._services
        if services.gatekeeper.counts(principal.metered):
            return None
        content = str(request.content, "utf-8")
        plain = plain_messages.take(services, request, content, principal.agent_id, {})
        if plain is None:
            return None
        moment = encode(from_ms(services.now_ms())).decode()
        message = plain[1], request.priority, plain_messages.travelling(plain, moment)
        return message, plain[0], plain_messages.shown(plain, moment, services.durability)

    def _other(self, principal: Principal, request: SendRequest) -> Made | None:
        """Do for any message what `_plain` does for those that are."""
        envelope = self._envelope(principal, request)
        if envelope is None:
            return None
        return written(envelope), envelope.id, self._shown(pending_view(envelope))

    def _envelope(self, principal: Principal, request: SendRequest) -> Envelope | None:
        """Return any message as it will be published, if nobody has to be asked about it."""
        services = self._services
        try:
            self._reader.checked(request)
        except BrokerError:
            return None
        if not is_new(services, request):
            return None
        envelope = accept_at_once(services, request, principal.agent_id, from_ms(services.now_ms()))
        if envelope is None or not services.gatekeeper.try_to_spend(principal.metered, envelope):
            return None
        return envelope


def known_caller(services: Services, exchange: Exchange, scope: Scope) -> Principal | None:
    """Return who calls, if that is known and they may do this, and the headers ask for nothing else."""
    authorization = exchange.headers.get(b"authorization")
    if authorization is None or not is_usual(exchange):
        return None
    now_ms = services.now_ms()
    principal = services.keyring.remembered(authorization, now_ms=now_ms)
    if principal is None or scope not in principal.scopes:
        return None
    if services.gatekeeper.is_killed(principal.agent_id):
        return None
    if principal.agent_id is not None:
        services.signs_of_life.hear(principal.agent_id)
        services.key_use.note(principal.key_id, now_ms=now_ms)
    return principal


def is_usual(exchange: Exchange) -> bool:
    """Tell whether the headers ask for nothing that only the ordinary way knows."""
    headers = exchange.headers
    return headers.get(b"content-type") in _JSON and headers.keys().isdisjoint(_UNUSUAL)
