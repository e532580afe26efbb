"""Keys asked for together are looked up together, each for its own caller; a failure reaches all of them."""

import asyncio

import pytest

from broker.core import keys
from broker.gateway import key_lookups
from broker.gateway.key_lookups import KeyLookups
from broker.store import keys as stored_keys
from broker.store.keys import StoredKey
from broker.store.pool import Pool, open_pool
from schema.errors import StoreUnavailable


def key(number: int) -> StoredKey:
    minted = keys.mint(number.to_bytes(8), bytes(32))
    return StoredKey(
        id=minted.id, agent_id=None, scopes=(), hash=b"h", prefix=minted.prefix, created_ms=1_800_000_000_000
    )


async def test_many_that_ask_at_once_share_few_queries(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, made, batches = (
        await open_pool(database_url, application_name="test"),
        [key(n) for n in range(40)],
        [],
    )
    for one in made:
        await stored_keys.insert(pool, one)
    find_all = stored_keys.find_all

    async def noted(pool: Pool, several: list[str]) -> dict[str, StoredKey]:
        batches.append(several)
        return await find_all(pool, several)

    monkeypatch.setattr(key_lookups.stored_keys, "find_all", noted)
    lookups = KeyLookups(pool)
    found = await asyncio.gather(*(lookups.find(one.id) for one in made + made), lookups.find("nobody's"))
    assert found == [*made, *made, None]
    assert len(batches) <= 3
    await pool.aclose()


async def test_all_that_ask_hear_that_the_record_is_away() -> None:
    pool = await open_pool("postgresql://127.0.0.1:1/none", application_name="test")
    lookups = KeyLookups(pool)
    found = await asyncio.gather(*(lookups.find(str(n)) for n in range(5)), return_exceptions=True)
    assert all(isinstance(one, StoreUnavailable) for one in found)
    await pool.aclose()


async def test_nobody_waits_for_ever_after_an_error_nobody_thought_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(key_lookups.stored_keys, "find_all", broken)
    pool = await open_pool("postgresql://127.0.0.1:1/none", application_name="test")
    lookups = KeyLookups(pool)
    async with asyncio.timeout(5):
        found = await asyncio.gather(*(lookups.find(str(n)) for n in range(5)), return_exceptions=True)
    assert all(isinstance(one, ZeroDivisionError) for one in found)
    await pool.aclose()
