"""Counting dead letters: of one agent, or one side of it, no others are looked at."""

from collections.abc import Callable

import pytest
from bench.reading import Noted, cost_of, open_noting_pool
from ledger_events import envelope, settled

from broker.core.fold import fold
from broker.store import dead_letters, record
from broker.store.dead_letters import DeadLetterFilter
from broker.store.pool import Pool
from schema.ids import new_id
from schema.message import Status

OTHERS = 3_000
ITS_OWN = 40


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        pytest.param(lambda one: DeadLetterFilter(agent_id=one), 2 * ITS_OWN, id="either side"),
        pytest.param(lambda one: DeadLetterFilter(to_agent_id=one), ITS_OWN, id="received"),
        pytest.param(lambda one: DeadLetterFilter(from_agent_id=one), ITS_OWN, id="sent"),
    ],
)
async def test_counting_the_dead_letters_of_one_agent_looks_at_no_others(
    database_url: str, pool: Pool, wanted: Callable[[str], DeadLetterFilter], count: int
) -> None:
    one = new_id()
    made = [envelope(to_agent_id=new_id(), from_agent_id=new_id()) for _ in range(OTHERS)]
    made += [envelope(to_agent_id=one, from_agent_id=new_id()) for _ in range(ITS_OWN)]
    made += [envelope(to_agent_id=new_id(), from_agent_id=one) for _ in range(ITS_OWN)]
    await record.write(pool, fold([settled(each, status=Status.FAILED, attempt=None) for each in made]))
    await pool.execute("VACUUM ANALYZE agent_messages")
    noted: Noted = []
    noting = await open_noting_pool(database_url, noted)
    assert await dead_letters.count(noting, wanted(one), at_most=1_000) == count
    cost = await cost_of(noting, noted, lambda: dead_letters.count(noting, wanted(one), at_most=1_000))
    await noting.aclose()
    # By either plan the server may choose; twice: each row of an index may be looked at in the table as well.
    assert 0 < cost.rows <= 2 * count, cost
