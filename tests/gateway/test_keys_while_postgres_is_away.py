"""Keys are believed for ten minutes while Postgres is away or says nothing, and not a moment longer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from msgspec import Struct
from silent_postgres import SilentPostgres, silenceable

from broker.core import keys
from broker.gateway import keyring as keyring_module
from broker.gateway.call import Principal
from broker.gateway.keyring import STALE_MS, Keyring
from broker.store import keys as stored_keys
from broker.store import pool as pool_module
from broker.store.keys import StoredKey
from broker.store.pool import open_pool
from schema.errors import StoreUnavailable, Unauthenticated

NOW_MS = 1_800_000_000_000
PEPPER = b"pepper"


class Stage(Struct):
    keyring: Keyring
    postgres: SilentPostgres
    bearer: str
    key_id: str


@pytest.fixture
async def stage(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    minted = keys.mint(bytes(8), bytes(32))
    row = StoredKey(
        id=minted.id,
        agent_id=None,
        scopes=("messages:write",),
        hash=keys.digest(PEPPER, minted.text),
        prefix=minted.prefix,
        created_ms=NOW_MS - 1,
    )
    patient = await open_pool(database_url, size=1, application_name="test")
    await stored_keys.insert(patient, row)
    await patient.aclose()
    for module, name in (
        (pool_module, "COMMAND_S"),
        (pool_module, "ACQUIRE_S"),
        (keyring_module, "PATIENCE_S"),
    ):
        monkeypatch.setattr(module, name, 0.3)
    async with silenceable(database_url) as postgres:
        pool = await open_pool(postgres.url, size=2, application_name="test")
        ring = Keyring(pool, operator_key="operator", pepper=PEPPER)
        yield Stage(ring, postgres, f"Bearer {minted.text}", minted.id)
        postgres.speak()
        await pool.aclose()


async def seen(stage: Stage) -> Principal:
    """Let the key be read from a store that speaks: what is taken for silence here may be the machine's."""
    async with asyncio.timeout(20):
        while True:
            with suppress(StoreUnavailable):
                return await stage.keyring.principal_of(stage.bearer, now_ms=NOW_MS)


async def test_a_key_that_was_seen_is_believed_for_ten_minutes_and_no_longer(stage: Stage) -> None:
    assert STALE_MS == 10 * 60_000
    known = await seen(stage)
    stage.postgres.fall_silent()
    assert await stage.keyring.principal_of(stage.bearer, now_ms=NOW_MS + STALE_MS - 1) == known
    with pytest.raises(StoreUnavailable):
        await stage.keyring.principal_of(stage.bearer, now_ms=NOW_MS + STALE_MS)
    assert (await stage.keyring.principal_of("Bearer operator", now_ms=NOW_MS + STALE_MS)).is_operator


async def test_a_key_that_was_not_seen_or_that_changed_is_not_believed_meanwhile(stage: Stage) -> None:
    stage.postgres.fall_silent()
    with pytest.raises(StoreUnavailable):
        await stage.keyring.principal_of(stage.bearer, now_ms=NOW_MS)
    stage.postgres.speak()
    await seen(stage)
    stage.postgres.fall_silent()
    stage.keyring.forget(stage.key_id)
    with pytest.raises(StoreUnavailable):
        await stage.keyring.principal_of(stage.bearer, now_ms=NOW_MS + 1)
    with pytest.raises(Unauthenticated):
        await stage.keyring.principal_of(stage.bearer[:-1], now_ms=NOW_MS + 1)
