"""The registry stream: word that an agent changed. It carries ids only; readers re-read the agent's row, so
secrets never lie in Redis and a missed word is mended by reading everything once."""

from typing import Final

from broker.streams.connection import Connection
from broker.streams.keys import REGISTRY
from broker.streams.link import Link
from schema.limits import REGISTRY_ENTRIES_MAX

SWITCHES: Final = "00000000-0000-0000-0000-000000000000"
"""In place of an agent's id: the kill switches changed. Nobody is registered under it, so that a process that
does not know the word looks in vain for an agent and goes on."""


class Registry:
    """Announces changes (gateway) over a link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def announce(self, agent_id: str) -> None:
        """Tell every process with a directory that this agent changed. Raises: StreamsUnavailable."""
        await announce(await self._link.get(), agent_id)


async def announce(connection: Connection, agent_id: str) -> None:
    """Tell every process with a directory that this agent changed. Raises: StreamsUnavailable."""
    await connection.send("XADD", REGISTRY, "MAXLEN", "~", REGISTRY_ENTRIES_MAX, "*", "id", agent_id)


class RegistryFollower:
    """Follows changes from a cursor. A blocking read wants a connection of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.cursor = "0-0"

    async def start(self) -> None:
        """Begin at the end: what is there now is covered by loading all agents *after* this call."""
        last = await self._connection.send("XREVRANGE", REGISTRY, "+", "-", "COUNT", 1)
        self.cursor = last[0][0].decode() if last else "0-0"

    async def read(self, *, block_ms: int = 0) -> set[str]:
        """Return the ids of agents that changed since the last call; waits up to `block_ms` for one."""
        wait = ("BLOCK", block_ms) if block_ms else ()
        reply = await self._connection.send("XREAD", "COUNT", 1_000, *wait, "STREAMS", REGISTRY, self.cursor)
        if not reply:
            return set()
        entries = reply[0][1]
        self.cursor = entries[-1][0].decode()
        return {fields[1].decode() for _, fields in entries}

    async def fell_behind(self) -> bool:
        """Tell whether entries may be gone that this reader has not seen: it must reload everything.

        By the cap, or because Redis lost what it held: a stream that was read once is never empty otherwise.
        """
        if self.cursor == "0-0":
            return False
        first = await self._connection.send("XRANGE", REGISTRY, "-", "+", "COUNT", 1)
        if not first:
            return True
        return _key(first[0][0].decode()) > _key(self.cursor)


def _key(entry_id: str) -> tuple[int, int]:
    moment, sequence = entry_id.split("-")
    return int(moment), int(sequence)
