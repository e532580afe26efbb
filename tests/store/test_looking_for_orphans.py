"""Orders whose agent has left are looked for every second: that costs what has left, not who is there."""

from bench.reading import Noted, cost_of, open_noting_pool

from broker.store import work_orders
from broker.store.pool import Pool

AGENTS = 2_000
LEFT = 3


async def test_looking_for_orphaned_orders_passes_over_agents_that_are_there(
    database_url: str, pool: Pool
) -> None:
    await pool.execute(
        "INSERT INTO agents (id, name, type, max_concurrent_jobs, created_at, updated_at, deleted_at)"
        " SELECT uuidv7(), 'agent-' || number, 'agent', 1, now(), now(),"
        " CASE WHEN number <= $2 THEN now() END FROM generate_series(1, $1::integer) AS number",
        *(AGENTS, LEFT),
    )
    await pool.execute("VACUUM ANALYZE agents")
    noted: Noted = []
    noting = await open_noting_pool(database_url, noted)
    cost = await cost_of(noting, noted, lambda: work_orders.orphaned(noting, 100))
    await noting.aclose()
    assert LEFT <= cost.rows <= 4 * LEFT, cost
