"""Pings: "it tried to reach you", left also for an agent that is not there."""

from msgspec import Raw, Struct

from broker.gateway.accepting import accept
from broker.gateway.call import Call, Reply
from broker.gateway.coordination.caller import SENDER, required_agent
from broker.gateway.coordination.posting import post
from broker.gateway.coordination.presence import seen
from broker.gateway.known_agents import unknown_recipient
from broker.gateway.reading import Faults
from broker.gateway.services import Services
from broker.store import agents as stored_agents
from schema import limits
from schema.agent import Agent
from schema.codec import encode
from schema.errors import Rejected
from schema.message import SendRequest
from schema.presence import PING_TYPE, PingContent, PingReply, PingRequest, PingTarget


class SenderQuery(Struct):
    """Query of an operation whose caller may have to say as whom it sends."""

    from_agent_id: str | None = None


def check_ping(request: PingRequest, faults: Faults) -> None:
    """Note everything wrong with a ping."""
    if request.message is not None and len(request.message) > limits.PING_MESSAGE_CHARS_MAX:
        faults.add("message", f"must have at most {limits.PING_MESSAGE_CHARS_MAX} characters")


async def ping(call: Call[PingRequest, SenderQuery]) -> Reply:
    """Let an agent know that it is wanted, and see whether it is there.

    A message of type `ping` is left in its inbox also when it is offline; its `message` may be left out.
    """
    services = call.services
    sender = await required_agent(call, call.query.from_agent_id, field=SENDER)
    target = await other_agent(services, call.body.to_agent_id, sender)
    content = Raw(encode(PingContent(message=call.body.message)))
    request = SendRequest(to_agent_id=target.id, message_type=PING_TYPE, content=content)
    envelope = await accept(services, request, sender)
    services.gatekeeper.spend(call.principal.metered, envelope)
    await post(services, envelope)
    heard = await seen(services, target)
    shown = PingTarget(
        id=target.id,
        name=target.name,
        is_online=heard.is_online,
        status_message=target.status_message,
        accepts_work_orders=target.accepts_work_orders,
        state=heard.state,
    )
    return Reply(body=PingReply(success=True, message_id=envelope.id, target_agent=shown))


async def other_agent(services: Services, reference: str, own_id: str) -> Agent:
    """Return the agent meant, as it is now.

    Raises: UnknownRecipient; Rejected for oneself; StoreUnavailable.
    """
    agent_id = await services.agents.recipient(reference)
    if agent_id == own_id:
        raise Rejected("to_agent_id: this is the sender itself", field="to_agent_id")
    agent = await stored_agents.get(services.pool, agent_id)
    if agent is None:
        raise unknown_recipient(reference)
    return agent
