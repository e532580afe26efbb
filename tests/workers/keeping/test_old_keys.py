"""API keys that ended are listed for a month and then forgotten; those that work never are."""

import pytest

from broker.store import agents, keys
from broker.store.keys import StoredKey
from broker.store.pool import Pool
from schema.agent import Agent
from schema.ids import new_id
from schema.limits import KEYS_KEPT_MS
from workers.keeping.forgetting import of_api_keys

NOW_MS = 1_900_000_000_000
EARLIER_MS = NOW_MS - KEYS_KEPT_MS


async def test_keys_are_forgotten_a_month_after_their_end_and_not_before(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "FORGOTTEN_ROWS", 2)
    agent = Agent(id=new_id(), name="a", created_ms=1, updated_ms=1)
    ends = {
        "works": (None, None),
        "ends-later": (NOW_MS + 1, None),
        "expired-now": (EARLIER_MS, None),
        "revoked-now": (None, EARLIER_MS),
        "expired": (EARLIER_MS - 1, None),
        "revoked": (None, EARLIER_MS - 1),
        "revoked-before-its-end": (NOW_MS + 1, EARLIER_MS - 1),
        "expired-before-it-was-revoked": (EARLIER_MS - 1, NOW_MS),
    }
    found = [
        StoredKey(
            id=name,
            agent_id=agent.id,
            scopes=(),
            hash=b"h",
            prefix="abk_",
            created_ms=1,
            expires_ms=expires_ms,
            revoked_ms=revoked_ms,
        )
        for name, (expires_ms, revoked_ms) in ends.items()
    ]
    await agents.register(pool, agent, found[0])
    for key in found[1:]:
        await keys.insert(pool, key)
    job = of_api_keys(pool, now_ms=lambda: NOW_MS)
    assert await job.forget() == 4
    left = {key.id for key in await keys.of_agent(pool, agent.id)}
    assert left == {"works", "ends-later", "expired-now", "revoked-now"}
    assert await job.forget() == 0
