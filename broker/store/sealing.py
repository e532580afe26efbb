"""Seals the secrets of all agents with the newest key: those of older keys, and those in the clear that older
releases, or a deployment without a key, have stored.

In batches, each a transaction of its own, so that it can run beside everything else and be cut short: what is
sealed with the newest key is not looked at again.
"""

from secrets import token_bytes
from typing import Final

from msgspec import Struct, field

from broker.core.sealing import NONCE_BYTES, Sealer
from broker.store.agents import FIRST_ID
from broker.store.pool import Pool
from broker.store.statements import load
from schema.agent import SEALED
from schema.errors import Rejected

_TO_SEAL: Final = load("secrets_to_seal")
_SEAL: Final = load("secrets_seal")
_COUNTED: Final = load("secrets_counted")

BATCH_ROWS: Final = 500


class Sealed(Struct):
    """What came of it: agents whose secrets were sealed anew, and the ids of those no key opens."""

    agents: int = 0
    unreadable: list[str] = field(default_factory=list)


async def seal_all(pool: Pool, *, batch_rows: int = BATCH_ROWS) -> Sealed:
    """Seal every secret with the newest key. What no key opens stays as it is.

    Raises: Rejected without any key; StoreUnavailable.
    """
    if not pool.sealer.current:
        raise Rejected("SECRETS_KEY is not set: there is nothing to encrypt with")
    done = Sealed()
    last: str | None = FIRST_ID
    while last is not None:
        last = await _seal_batch(pool, done, last, batch_rows)
    return done


async def counted(pool: Pool) -> dict[str, int]:
    """Return how many secrets are stored by the mark of their key; the empty mark: in the clear.

    Raises: StoreUnavailable.
    """
    return {row["mark"]: row["secrets"] for row in await pool.fetch(_COUNTED, SEALED)}


async def _seal_batch(pool: Pool, done: Sealed, last: str, batch_rows: int) -> str | None:
    """Seal the next agents behind an id; return the last one's, None when there was none."""
    async with pool.transaction() as connection:
        rows = await connection.fetch(_TO_SEAL, last, pool.sealer.current, batch_rows)
        if not rows:
            return None
        ids = [str(row["id"]) for row in rows]
        current = [_anew(pool.sealer, one, row["signing_secret"]) for one, row in zip(ids, rows, strict=True)]
        former = [_anew(pool.sealer, one, row["previous_secret"]) for one, row in zip(ids, rows, strict=True)]
        await connection.execute(_SEAL, ids, current, former)
    for one, *secrets in zip(ids, current, former, strict=True):
        if all(secret.startswith(pool.sealer.current) for secret in secrets if secret):
            done.agents += 1
        else:
            done.unreadable.append(one)
    return ids[-1]


def _anew(sealer: Sealer, owner: str, stored: str | None) -> str | None:
    """Return a stored secret sealed with the newest key; as it is where no key opens it."""
    if not stored:
        return stored
    return sealer.seal(sealer.open(stored, owner=owner), owner=owner, nonce=token_bytes(NONCE_BYTES))
