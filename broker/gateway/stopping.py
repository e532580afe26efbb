"""What is stopped, for operators: trips (listed, reset) and kill switches (set, listed, taken away)."""

from contextlib import suppress
from typing import Any, Final

from broker.gateway.call import Call, NoQuery, Principal, Reply
from broker.gateway.reading import Faults
from broker.store import kill_switches
from broker.streams.registry import SWITCHES
from schema import limits
from schema.errors import Forbidden, NotFound, Unavailable
from schema.ids import is_id, new_id
from schema.times import from_ms
from schema.trip import KillSwitchOff, KillSwitchRequest, KillSwitchView, TripReset, TripView

_WHAT: Final = "say what: agent_id, agent_id and peer_id, or root_id"


def check_switch(request: KillSwitchRequest, faults: Faults) -> None:
    """Note everything wrong with a kill switch."""
    if (request.agent_id is None) is (request.root_id is None):
        faults.add("agent_id", _WHAT)
    elif request.peer_id is not None and request.agent_id is None:
        faults.add("peer_id", _WHAT)
    if request.root_id is not None and not is_id(request.root_id.lower()):
        faults.add("root_id", "must be a UUID")
    reason = request.reason
    if reason is not None and (len(reason) > limits.KILL_REASON_CHARS_MAX or not reason.isprintable()):
        faults.add("reason", f"must be printable text of at most {limits.KILL_REASON_CHARS_MAX} characters")


async def list_trips(call: Call[None, NoQuery]) -> Reply:
    """List the pairs of agents that were found looping and are stopped until that is reset."""
    _require_operator(call.principal)
    found = await call.services.gatekeeper.book.read()
    trips = [
        TripView(
            id=trip.id,
            sign=trip.sign,
            from_agent_id=trip.from_agent_id,
            to_agent_id=trip.to_agent_id,
            both_ways=trip.both,
            tripped_at=from_ms(trip.at_ms),
        )
        for trip in sorted(found.trips, key=lambda trip: (trip.at_ms, trip.id))
    ]
    return Reply(body=trips)


async def reset_trip(call: Call[None, NoQuery]) -> Reply:
    """Let the two agents write to each other again; within a second everybody knows. What ended meanwhile is
    among the dead letters (reason `loop`) and can be replayed."""
    _require_operator(call.principal)
    trip_id = call.path["trip_id"].lower()
    if not is_id(trip_id) or not await call.services.gatekeeper.book.reset(trip_id):
        raise NotFound("no such trip")
    return Reply(body=TripReset(success=True, trip_id=trip_id))


async def list_switches(call: Call[None, NoQuery]) -> Reply:
    """List what is switched off."""
    _require_operator(call.principal)
    return Reply(body=await kill_switches.every(call.services.pool))


async def set_switch(call: Call[KillSwitchRequest, NoQuery]) -> Reply:
    """Switch off an agent, two agents to each other, or everything that goes back to one message; within a
    second everybody knows. Messages end with the reason `killed`. What waits for an agent that is switched
    off is held until it is on again, and its keys open nothing meanwhile."""
    _require_operator(call.principal)
    services, request = call.services, call.body
    agent_id = peer_id = None
    if request.agent_id is not None:
        agent_id = await call.services.agents.named(request.agent_id)
    if request.peer_id is not None:
        peer_id = await call.services.agents.named(request.peer_id)
        assert agent_id is not None
        agent_id, peer_id = sorted((agent_id, peer_id))
    view = KillSwitchView(
        id=new_id(),
        kind=kill_switches.kind_of(agent_id, peer_id),
        agent_id=agent_id,
        peer_id=peer_id,
        root_id=request.root_id and request.root_id.lower(),
        reason=request.reason,
        created_at=from_ms(services.now_ms()),
    )
    await kill_switches.add(services.pool, view)
    await _tell(call)
    return Reply(status=201, body=view)


async def take_switch_away(call: Call[None, NoQuery]) -> Reply:
    """Switch on again what was switched off; what was held is delivered."""
    _require_operator(call.principal)
    switch_id = call.path["switch_id"].lower()
    if not is_id(switch_id) or not await kill_switches.remove(call.services.pool, switch_id):
        raise NotFound("no such kill switch")
    await _tell(call)
    return Reply(body=KillSwitchOff(success=True, kill_switch_id=switch_id))


async def _tell(call: Call[Any, NoQuery]) -> None:  # any body
    """Let everybody read the switches anew. They are written: where Redis is away nothing is routed, and who
    comes up reads them."""
    call.services.gatekeeper.on_change(SWITCHES)
    with suppress(Unavailable):
        await call.services.registry.announce(SWITCHES)


def _require_operator(principal: Principal) -> None:
    if not principal.is_operator:
        raise Forbidden("only an operator may see and change what is stopped")
