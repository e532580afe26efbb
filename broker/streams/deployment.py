"""What is fixed when a deployment is created, and checked by every process at start."""

from broker.streams.connection import Connection
from broker.streams.keys import DEPLOYMENT, Keys
from broker.telemetry import logs
from schema.errors import Conflict, Unavailable


async def agree_on_shards(connection: Connection, shards: int) -> None:
    """Fix the number of shards with the first process, compare it with every later one.

    Raises: Conflict where the deployment was created with another number: messages would be looked for in
    the wrong place. BrokerError as the connection failed.
    """
    stored = await connection.send("HGET", DEPLOYMENT, "shards")
    if stored is None:  # Looked at first, because Redis at its memory limit refuses even a write of nothing.
        made, stored = await connection.send_many(
            (("HSETNX", DEPLOYMENT, "shards", shards), ("HGET", DEPLOYMENT, "shards"))
        )
        if made:
            logs.event("deployment.created", shards=shards)
    _compare(int(stored), shards)


async def check_signing(connection: Connection, *, signed: bool) -> None:
    """See that routers read what this process publishes. Raises: Unavailable while they let in only what is
    signed and this process is not told to use the broker's own lanes."""
    if not signed and await connection.send("EXISTS", Keys(0).signed):
        raise Unavailable(
            "the routers require signatures: REQUIRE_SIGNED_INGRESS is to be the same everywhere"
        )


async def restore(connection: Connection, shards: int) -> bool:
    """Fix the number of shards again where Redis has lost it; tell whether it had.

    For processes that have agreed before: then a missing key means that everything else is gone as well.
    Raises: Conflict as `agree_on_shards`; StreamsFull; StreamsUnavailable.
    """
    stored = await connection.send("HGET", DEPLOYMENT, "shards")
    if stored is not None:
        # Not by `agree_on_shards`, which asks again: what is lost in between it would make, and tell nobody.
        _compare(int(stored), shards)
        return False
    made: int = await connection.send("HSETNX", DEPLOYMENT, "shards", shards)
    return made == 1


def _compare(stored: int, shards: int) -> None:
    if stored != shards:
        raise Conflict(f"this deployment was created with {stored} shards; SHARDS says {shards}")
