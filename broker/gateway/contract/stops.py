"""Rows of the contract: what is stopped."""

from typing import Final

from broker.gateway import stopping
from broker.gateway.call import Scope
from broker.gateway.operation import Operation
from schema.errors import (
    Conflict,
    NotFound,
    StoreUnavailable,
    StreamsFull,
    StreamsUnavailable,
    TooManySwitches,
)
from schema.trip import KillSwitchOff, KillSwitchRequest, KillSwitchView, TripReset, TripView

TAG: Final = "Stops"

STOPS: Final = (
    Operation(
        name="listTrips",
        method="GET",
        path="/api/trips",
        summary="List pairs of agents stopped for looping",
        tag=TAG,
        scope=Scope.STOPS,
        replies={200: list[TripView]},
        errors=(StreamsUnavailable,),
        handler=stopping.list_trips,
    ),
    Operation(
        name="resetTrip",
        method="DELETE",
        path="/api/trips/{trip_id}",
        summary="Let a stopped pair go on",
        tag=TAG,
        scope=Scope.STOPS,
        replies={200: TripReset},
        errors=(NotFound, StreamsUnavailable, StreamsFull),
        handler=stopping.reset_trip,
    ),
    Operation(
        name="listKillSwitches",
        method="GET",
        path="/api/kill-switches",
        summary="List what is switched off",
        tag=TAG,
        scope=Scope.STOPS,
        replies={200: list[KillSwitchView]},
        errors=(StoreUnavailable,),
        handler=stopping.list_switches,
    ),
    Operation(
        name="setKillSwitch",
        method="POST",
        path="/api/kill-switches",
        summary="Switch off an agent, a pair or a root",
        tag=TAG,
        scope=Scope.STOPS,
        body=KillSwitchRequest,
        check=stopping.check_switch,
        replies={201: KillSwitchView},
        errors=(NotFound, Conflict, TooManySwitches, StoreUnavailable),
        handler=stopping.set_switch,
    ),
    Operation(
        name="removeKillSwitch",
        method="DELETE",
        path="/api/kill-switches/{switch_id}",
        summary="Switch something on again",
        tag=TAG,
        scope=Scope.STOPS,
        replies={200: KillSwitchOff},
        errors=(NotFound, StoreUnavailable),
        handler=stopping.take_switch_away,
    ),
)
