"""What a question to the store reads, as the server says: pages, rows looked at, tables gone through whole.

Nothing else on the machine changes these figures, so growth shows in them where times show the noise. The
statements are those the store sends, each with the plan for its values and with the plan for any values (the
server may choose either); what is told is the dearer one.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec
from msgspec import Struct

from broker.core.sealing import Sealer
from broker.store.pool import Pool, session_settings

MODES: Final = ("force_custom_plan", "force_generic_plan")
GROWING: Final = ("agent_messages", "message_delivery_log", "work_orders")
"""Tables that grow with the record: nothing may go through one of them, or a part, row by row."""
FEW: Final = 1_000
"""Rows of a part that is read whole sooner than its index, and rightly so."""
_EXPLAIN: Final = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE looked_at"

Noted = list[tuple[str, tuple[object, ...]]]


class Cost(Struct, frozen=True):
    """What one question read. `scanned`: growing tables, or parts of them, it went through row by row."""

    pages: int
    rows: int
    scanned: frozenset[str] = frozenset()

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.pages + other.pages, self.rows + other.rows, self.scanned | other.scanned)


async def cost_of(pool: Pool, noted: Noted, ask: Callable[[], Awaitable[object]]) -> Cost:
    """Ask through a noting pool; return what all its statements together read."""
    noted.clear()
    await ask()
    found = Cost(0, 0)
    for statement, args in tuple(noted):
        plans = [await _explained(pool, statement, args, mode) for mode in MODES]
        costs = [_cost(plan) for plan in plans]
        found += max(costs, key=lambda cost: (len(cost.scanned), cost.pages))
    return found


async def open_noting_pool(database_url: str, noted: Noted) -> Pool:
    """Return a pool of one connection that notes every statement it fetches with."""

    class Noting(asyncpg.Connection):  # type: ignore[type-arg]  # generic for type checkers only
        async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
            noted.append((query, args))
            return await super().fetch(query, *args, **options)

        async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
            noted.append((query, args))
            return await super().fetchrow(query, *args, **options)

        async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
            noted.append((query, args))
            return await super().fetchval(query, *args, **options)

    settings = session_settings("bench") | {"statement_timeout": "60000"}
    pool = await asyncpg.create_pool(
        database_url, min_size=0, max_size=1, connection_class=Noting, server_settings=settings
    )
    return Pool(pool, Sealer(()))


async def _explained(pool: Pool, statement: str, args: Sequence[object], mode: str) -> dict[str, Any]:
    """Run a statement under one kind of plan; return its plan. Through EXECUTE: a statement that is explained
    directly is always planned for its values."""
    values = f" ({', '.join(_literal(one) for one in args)})" if args else ""
    async with pool.transaction() as connection:
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        await connection.execute(f"PREPARE looked_at AS {statement}")
        explained = await connection.fetchval(_EXPLAIN + values)
        await connection.execute("DEALLOCATE looked_at")
    plan: dict[str, Any] = msgspec.json.decode(explained)[0]["Plan"]
    return plan


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list | tuple):
        text = "{" + ",".join(f'"{one}"' for one in value) + "}"
    else:
        text = value.isoformat() if isinstance(value, datetime) else str(value)
    return "'" + text.replace("'", "''") + "'"


def _cost(plan: dict[str, Any]) -> Cost:
    rows, scanned = 0.0, set()
    for node in _nodes(plan):
        times = node["Actual Loops"]
        dropped = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
        looked_at = (node["Actual Rows"] + dropped) * times
        if "Relation Name" in node:
            rows += looked_at
            whole = re.sub(r"_p\d{8}$", "", node["Relation Name"])
            if node["Node Type"] == "Seq Scan" and looked_at > FEW and whole in GROWING:
                scanned.add(whole)
    return Cost(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], round(rows), frozenset(scanned))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)
