"""Who calls, where an operation makes no sense without an agent that acts."""

from typing import Any, Final

from broker.gateway.access import acting_agent
from broker.gateway.call import Call
from schema.errors import Rejected

AGENT: Final = "agent_id"
SENDER: Final = "from_agent_id"


async def required_agent(call: Call[Any, Any], *claims: str | None, field: str) -> str:  # any operation
    """Return the id of the agent the caller acts as. `claims`: who the query says that is, strongest first;
    `field`: the parameter by which it may be named.

    Raises: AgentMismatch; Rejected, naming the field, when an operator names none or nobody is called so;
    StoreUnavailable.
    """
    try:
        agent_id = await acting_agent(call, *claims)
    except Rejected as error:
        raise error if error.field is None else error.at(field) from None
    if agent_id is None:
        raise Rejected(f"{field}: say which agent acts; an operator's key does not", field=field)
    return agent_id
