"""Word that API keys changed: every gateway that has them cached looks them up again. Pub/sub, so a lost word
costs as long as a cached key is believed (30 s) and nothing else."""

from collections.abc import Sequence

import msgspec

from broker.streams.connection import Connection
from broker.streams.keys import REVOKED

decode_revoked = msgspec.json.Decoder(list[str]).decode


async def say_revoked(connection: Connection, key_ids: Sequence[str]) -> None:
    """Tell every gateway that these keys changed. Raises: StreamsUnavailable."""
    await connection.send("PUBLISH", REVOKED, msgspec.json.encode(list(key_ids)))
