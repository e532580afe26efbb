"""Operations: presence and pings."""

from collections.abc import Iterable

from msgspec import UNSET, UnsetType

from broker.client.request import Request, path_of
from broker.client.subject import ShellT, Subject, operation
from schema.presence import PingReply, PresenceUpdate, PresenceView, SignOfLife, SignsOfLife

PATH = "/api/v1/messaging/presence"


class Presence(Subject[ShellT]):
    """Who is there. `agent_id`: whom it is about, where the key does not say it."""

    @operation("sendHeartbeat")
    def heartbeat(self, *, agent_id: str | None = None) -> Request[SignOfLife]:
        """Say that one is there: online for 60 s. To be called every 30 s or so."""
        return Request(
            method="POST",
            path="/api/v1/messaging/heartbeat",
            reply=SignOfLife,
            query={"agent_id": agent_id},
        )

    @operation("sendHeartbeats")
    def heartbeats(self, agent_ids: Iterable[str]) -> Request[SignsOfLife]:
        """Say of up to 1,000 agents, by their ids, that they are there (operator)."""
        return Request(
            method="POST",
            path="/api/v1/messaging/heartbeats",
            reply=SignsOfLife,
            body={"agent_ids": list(agent_ids)},
        )

    @operation("changePresence")
    def update(
        self,
        *,
        status_message: str | UnsetType | None = UNSET,
        accepts_work_orders: bool | UnsetType = UNSET,
        max_concurrent_jobs: int | UnsetType = UNSET,
        agent_id: str | None = None,
    ) -> Request[PresenceView]:
        """Say how one is; what is not given stays. Counts as a heartbeat."""
        body = PresenceUpdate(
            status_message=status_message,
            accepts_work_orders=accepts_work_orders,
            max_concurrent_jobs=max_concurrent_jobs,
        )
        return Request(method="PUT", path=PATH, reply=PresenceView, query={"agent_id": agent_id}, body=body)

    @operation("showPresence")
    def show(self, reference: str) -> Request[PresenceView]:
        """Return the presence of an agent by id or name. Raises: NotFound."""
        return Request(method="GET", path=f"{PATH}/{path_of(reference)}", reply=PresenceView)

    __call__ = show

    @operation("pingAgent")
    def ping(
        self, to: str, message: str | None = None, *, from_agent_id: str | None = None
    ) -> Request[PingReply]:
        """Leave a ping in an agent's inbox, online or not, and return what is known of it.

        Raises: UnknownRecipient, NotAContact, RateLimited.
        """
        # Not repeatable: it would leave a second one.
        return Request(
            method="POST",
            path="/api/v1/messaging/ping",
            reply=PingReply,
            query={"from_agent_id": from_agent_id},
            body={"to_agent_id": to, "message": message},
            repeatable=False,
        )
