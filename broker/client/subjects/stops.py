"""Operations: what is stopped. Operators' only."""

from broker.client.request import Request, given, path_of
from broker.client.subject import ShellT, Subject, operation
from schema.trip import KillSwitchOff, KillSwitchView, TripReset, TripView

# Outside the classes, because inside them `list` is the operation.
_Trips = list[TripView]
_Switches = list[KillSwitchView]


class Trips(Subject[ShellT]):
    """Pairs of agents that were found looping."""

    @operation("listTrips")
    def list(self) -> Request[_Trips]:
        """Return the pairs that are stopped, the first to trip first. Raises: Forbidden."""
        return Request(method="GET", path="/api/trips", reply=_Trips)

    __call__ = list

    @operation("resetTrip")
    def reset(self, trip_id: str) -> Request[TripReset]:
        """Let a pair go on. Raises: NotFound, Forbidden."""
        # Repeatable with a flaw: a second try may find it reset already, by the first.
        return Request(
            method="DELETE", path=f"/api/trips/{path_of(trip_id)}", reply=TripReset, repeatable=False
        )


class KillSwitches(Subject[ShellT]):
    """What operators have switched off."""

    @operation("listKillSwitches")
    def list(self) -> Request[_Switches]:
        """Return what is switched off, the oldest first. Raises: Forbidden."""
        return Request(method="GET", path="/api/kill-switches", reply=_Switches)

    __call__ = list

    @operation("setKillSwitch")
    def set(
        self,
        *,
        agent_id: str | None = None,
        peer_id: str | None = None,
        root_id: str | None = None,
        reason: str | None = None,
    ) -> Request[KillSwitchView]:
        """Switch off an agent, two agents to each other, or all that goes back to one message.

        Raises: NotFound, Conflict where it is off already, Rejected, Forbidden.
        """
        body = given(agent_id=agent_id, peer_id=peer_id, root_id=root_id, reason=reason)
        return Request(
            method="POST", path="/api/kill-switches", reply=KillSwitchView, body=body, repeatable=False
        )

    @operation("removeKillSwitch")
    def remove(self, switch_id: str) -> Request[KillSwitchOff]:
        """Switch something on again. Raises: NotFound, Forbidden."""
        return Request(
            method="DELETE",
            path=f"/api/kill-switches/{path_of(switch_id)}",
            reply=KillSwitchOff,
            repeatable=False,
        )
