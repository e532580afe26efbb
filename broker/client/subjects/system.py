"""Operations: the broker itself."""

from typing import Any

from broker.client.request import Request
from broker.client.subject import ShellT, Subject, operation
from schema.http import HealthReply, ReadyReply

_Document = dict[str, Any]  # the contract is JSON Schema in JSON


class System(Subject[ShellT]):
    """Whether the broker is well, and what it offers."""

    @operation("healthz")
    def health(self) -> Request[HealthReply]:
        """Return whether the process is up."""
        return Request(method="GET", path="/healthz", reply=HealthReply)

    @operation("readyz")
    def ready(self) -> Request[ReadyReply]:
        """Return what the broker has found of its stores. Raises: Unavailable while it is not ready."""
        return Request(method="GET", path="/readyz", reply=ReadyReply)

    @operation("openapi")
    def contract(self) -> Request[_Document]:
        """Return the contract as OpenAPI 3.1."""
        return Request(method="GET", path="/openapi.json", reply=_Document)
