"""A pool on a fresh, migrated database of each PostgreSQL there is."""

from collections.abc import AsyncIterator

import pytest

from broker.store.pool import Pool, open_pool


@pytest.fixture
async def any_pool(any_database_url: str) -> AsyncIterator[Pool]:
    opened = await open_pool(any_database_url, application_name="tests")
    yield opened
    await opened.aclose()
