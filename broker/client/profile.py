"""Who an agent is: the key it comes with, and what the registry shall say about it.

A key is given, or read from a file, or got by registering with an operator's key and then kept in that file.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from broker.client import credentials as kept
from broker.client.credentials import Credentials
from broker.client.http import AgentClient
from schema.agent import AgentView
from schema.errors import NameTaken, NotFound, Rejected

KEY_VARIABLE: Final = "AGENT_API_KEY"
URL_VARIABLE: Final = "AGENT_BROKER_URL"
URL_DEFAULT: Final = "http://127.0.0.1:8080"


class Identity:
    """Where an agent's key comes from. The first of: the key given, the file, a registration with the
    operator key, the environment."""

    def __init__(
        self,
        name: str,
        *,
        url: str | None,
        key: str | None,
        operator_key: str | None,
        credentials_file: Path | None,
        signing_secret: str | None,
    ) -> None:
        self.name = name
        self.url = url or os.environ.get(URL_VARIABLE) or URL_DEFAULT
        self._key = key
        self._operator_key = operator_key
        self._file = credentials_file
        self._secret = signing_secret

    async def find(self, profile: Mapping[str, Any]) -> tuple[str, str | None]:  # fields of RegisterRequest
        """Return key and signing secret, registering the agent if that is the only way.

        Raises: Rejected where there is no way; NameTaken where it is registered but its credentials are lost.
        """
        if self._key is not None:
            return self._key, self._secret
        found = None if self._file is None else kept.load(self._file)
        if found is None and self._operator_key is not None:
            found = await self._register(self._operator_key, profile)
        if found is not None:
            return found.api_key, self._secret or found.signing_secret
        if key := os.environ.get(KEY_VARIABLE):
            return key, self._secret
        raise Rejected(
            f"agent {self.name!r} has no key: give `key`, `credentials_file`, `operator_key` "
            f"or the variable {KEY_VARIABLE}"
        )

    async def _register(self, operator_key: str, profile: Mapping[str, Any]) -> Credentials:  # as above
        try:
            found = await kept.register(self.url, operator_key, self.name, **profile)
        except NameTaken as error:
            raise NameTaken(
                f"agent {self.name!r} is registered already, and its key is not here: give `key`, "
                "or have an operator issue a new one"
            ) from error
        if self._file is not None:
            kept.save(self._file, found)
        return found


async def bring_up_to_date(
    client: AgentClient,
    name: str,
    wanted: Mapping[str, Any],  # fields of AgentPatch
) -> AgentView:
    """Return the agent's record, changed where it is not as wanted. With an operator's key an agent nobody
    has registered yet is registered; the reply then has its signing secret.

    Raises: AgentMismatch when the key is another agent's.
    """
    try:
        record = await client.agents.show(name)
    except NotFound:
        return await client.agents.register(name, **wanted)
    changes = {field: value for field, value in wanted.items() if _differs(getattr(record, field), value)}
    if changes:
        record = await client.agents.update(record.id, **changes)
    return record


def _differs(there: Any, wanted: Any) -> bool:  # values of any field
    if isinstance(there, list) and wanted is not None:
        return sorted(there) != sorted(wanted)
    return bool(there != wanted)
