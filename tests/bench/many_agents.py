"""Many agents: what each costs that does nothing, one that has a message waiting, and its heartbeats; and
whether the rate depends on how many of the registered agents the traffic goes to.

Everything is measured on one broker with all agents registered. The flat-out runs take turns (10, 1,000, all
agents, the ceiling, 10, ...), each with as many messages.
"""

import argparse
import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from secrets import token_hex
from time import monotonic
from typing import Any, Final, TypeVar

import asyncpg
from msgspec import Struct, field
from redis.asyncio import Redis
from rich.console import Console

from bench import beating, registering, watching
from bench.beating import Beaten
from bench.kit.broker import Broker, CpuMeter, fresh_broker
from bench.kit.numbers import median
from bench.kit.program import run
from bench.kit.report import Aim, Findings, Table
from bench.kit.values import Curve
from broker.bench.commits import Commits, Stuck
from broker.bench.fleet import path_of
from broker.bench.payload import Fleet, first_id_at
from broker.bench.report import Run, cores_busy
from broker.bench.rig import Rig, open_rig
from broker.bench.tables import Cell
from broker.client.http import AgentClient
from broker.client.streams import StreamPublisher, message
from broker.store.pool import Pool, open_pool
from broker.streams.connection import Connection, open_connection
from broker.streams.keys import Keys
from broker.streams.link import Link
from broker.streams.presence import Presence
from schema.agent import Agent
from schema.ids import shard_of
from schema.limits import HEARTBEAT_STORED_EVERY_MS, PUBLISH_MESSAGES_PER_ENTRY_MAX
from schema.message import Lane

PORTS: Final = 200
SKILLS: Final = 50
PERIOD_S: Final = 30.0
"""One heartbeat of every agent within this."""
BEAT_S: Final = 10.0
"""So long beats are sent at that rate, by as many agents as it takes, each once: no key is known before."""
QUIET_S: Final = 10.0
ECHO_S: Final = 5.0
"""The keeper has read everything by then."""
SETTLE_S: Final = 8.0
"""The keeper reads a sign again for five seconds, and looks every two."""
STORED_EVERY_S: Final = HEARTBEAT_STORED_EVERY_MS / 1_000
SHARDS: Final = 2
OVER_HTTP: Final = 100
"""Agents registered one by one, for the time it takes."""
PATIENCE_S: Final = 90.0
SAMPLE: Final = 200
IDLE_BYTES_AIM: Final = 600
WAITING_BYTES_AIM: Final = 1_500
HEARTBEAT_CORE_AIM: Final = 0.10
SPREAD_AIM: Final = 2.0
VALKEY_MB: Final = 8_192
Cpu = dict[str, float]
Found = TypeVar("Found")


class Plan(Struct, frozen=True, kw_only=True):
    """Sizes of a run."""

    agents: int
    messages: int
    repeat: int
    period_s: float
    beat_s: float
    quiet_s: float
    waits_for_record: bool = True
    """Whether everybody is stored anew before heartbeats are measured, which takes up to a minute a time."""

    @property
    def spreads(self) -> list[int]:
        """How many of the agents traffic goes to."""
        return [spread for spread in (10, 1_000, self.agents) if spread <= self.agents]


class Yard(Struct):
    """The broker with all its agents, and the connections everything here is done with."""

    broker: Broker
    rig: Rig
    pool: Pool
    connection: Connection
    redis: Any  # neither driver types its replies
    database: Any
    plan: Plan
    agents: list[Agent] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    @property
    def commits(self) -> Commits:
        return Commits(self.database, self.redis, SHARDS)

    def tell(self, console: Console, text: str) -> None:
        console.print(text, style="dim", markup=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=int, default=100_000, help="agents to register (default 100000)")
    parser.add_argument(
        "--messages", type=int, default=50_000, help="messages of a flat-out run (default 50000)"
    )
    parser.add_argument("--repeat", type=int, default=2, help="flat-out runs of each kind (default 2)")
    parser.add_argument("--parts", default="rate,beat,wait", help="what to measure (default rate,beat,wait)")


async def main(args: argparse.Namespace, console: Console) -> Findings:
    plan = Plan(
        agents=args.agents,
        messages=args.messages,
        repeat=args.repeat,
        period_s=PERIOD_S,
        beat_s=BEAT_S,
        quiet_s=QUIET_S,
    )
    if args.quick:
        plan = Plan(
            agents=60,
            messages=200,
            repeat=1,
            period_s=0.5,
            beat_s=0.5,
            quiet_s=0.2,
            waits_for_record=False,
        )
    parts = args.parts.split(",")
    async with AsyncExitStack() as stack:
        yard = await _open(stack, plan)
        await _register(yard, console)
        if "rate" in parts:
            await _measure_rates(yard, console)
        if "beat" in parts:
            await _measure_heartbeats(yard, console)
        if "wait" in parts:
            await _measure_waiting(yard, console)
        return yard.findings


async def _open(stack: AsyncExitStack, plan: Plan) -> Yard:
    env = {"VALKEY_MAXMEMORY_MB": str(VALKEY_MB), "SHARDS": str(SHARDS)}
    broker = await stack.enter_async_context(fresh_broker(env=env))
    rig = await stack.enter_async_context(open_rig(broker, endpoints=PORTS))
    pool = await open_pool(broker.database_url, application_name="bench")
    stack.push_async_callback(pool.aclose)
    connection = await stack.enter_async_context(await open_connection(broker.redis_url, name="bench"))
    redis = await stack.enter_async_context(Redis.from_url(broker.redis_url))
    database = await asyncpg.connect(broker.database_url)
    stack.push_async_callback(database.close)
    return Yard(
        broker=broker, rig=rig, pool=pool, connection=connection, redis=redis, database=database, plan=plan
    )


# --- agents that are there -------------------------------------------------------------------------------


async def _register(yard: Yard, console: Console) -> None:
    """Register everybody, let everybody be heard once, and note what that takes."""
    plan, broker = yard.plan, yard.broker
    async with AgentClient(broker.api_url, broker.api_key) as client:
        sample = min(OVER_HTTP, plan.agents)
        began = monotonic()
        await registering.register_over_http(client, sample, name=f"slow-{token_hex(3)}")
        http_rate = sample / (monotonic() - began)
    redis_before = await watching.redis_memory_at_rest(yard.redis)
    resident_before = watching.resident_bytes(broker.roots)
    postgres_before = await _table_bytes(yard)
    yard.agents = registering.make_agents(
        plan.agents,
        name=f"many-{token_hex(3)}",
        endpoint=yard_endpoint(yard.rig.ports),
        capabilities=lambda number: _capabilities(number, plan),
        now_ms=await watching.now_ms(yard.redis),
    )
    began = monotonic()
    pepper = broker.settings["KEY_PEPPER"]
    yard.keys = await registering.register_rows(yard.pool, yard.connection, yard.agents, pepper=pepper)
    rows_s = monotonic() - began
    yard.tell(console, f"{plan.agents:,} agents stored and announced in {rows_s:.1f} s")
    known_s = await _until_known(yard) + rows_s
    yard.tell(console, f"known to the worker after {known_s:.1f} s")
    registered = await watching.redis_memory_at_rest(yard.redis)
    await _hear_all(yard)
    heard = await watching.redis_memory_at_rest(yard.redis)
    resident = watching.resident_bytes(broker.roots)
    each = (heard.data - redis_before.data) / plan.agents
    rows: list[list[Cell]] = [
        ["Redis: registered", (registered.data - redis_before.data) / plan.agents],
        ["Redis: registered and heard of", each],
        *(
            [f"{role} (resident)", (resident[role] - resident_before.get(role, 0)) / plan.agents]
            for role in ("gateway", "worker", "recorder", "keeper")
        ),
        ["PostgreSQL: row, key and indexes", (await _table_bytes(yard) - postgres_before) / plan.agents],
    ]
    yard.findings.tables.append(Table("Bytes for each idle agent", ["where", "bytes"], rows))
    yard.findings.aims.append(
        Aim("Redis bytes for an idle agent", f"<= {IDLE_BYTES_AIM}", f"{each:.0f}", each <= IDLE_BYTES_AIM)
    )
    yard.findings.notes.append(
        f"{plan.agents:,} agents: rows and keys copied, and word on the registry stream in "
        f"{rows_s:.1f} s, known to the worker after {known_s:.1f} s; over HTTP one after the other "
        f"{http_rate:,.0f}/s, so {plan.agents / http_rate:,.0f} s."
    )
    yard.tell(console, yard.findings.notes[-1])


def yard_endpoint(ports: Sequence[int]) -> registering.EndpointOf:
    """Return endpoints spread over the sink's ports."""
    return lambda number: f"http://127.0.0.1:{ports[number % len(ports)]}{path_of(number)}"


def _capabilities(number: int, plan: Plan) -> list[str]:
    groups = [f"among-{spread}" for spread in plan.spreads if number < spread]
    return [*groups, f"skill-{number % min(SKILLS, plan.spreads[0])}"]


async def _until_known(yard: Yard) -> float:
    """Wait until the worker knows everybody; return how long that was in seconds."""
    began = monotonic()
    last = yard.agents[-1].id
    async with await StreamPublisher.open(yard.broker.redis_url) as publisher:
        low = first_id_at(await watching.now_ms(yard.redis))
        await publisher.publish(message({}, to=last))
        await _until_recorded(yard, low, 1, attempted=True)
    return monotonic() - began


async def _hear_all(yard: Yard) -> None:
    """Note a sign of life of everybody, and wait until the keeper has brought them into the record."""
    began_ms, began = await watching.now_ms(yard.redis), monotonic()
    await _note_all(yard)
    stored = "SELECT count(*) FROM agents WHERE heartbeat_at >= to_timestamp($1::float8 / 1000)"
    while await yard.database.fetchval(stored, began_ms) < len(yard.agents):
        watching.be_patient(began, PATIENCE_S, "heartbeats are not recorded")
        # The question reads all agents: asked five times a second it cost more than what it asks about.
        await asyncio.sleep(0.2 + len(yard.agents) / 25_000)


async def _note_all(yard: Yard) -> None:
    """Note a sign of life of everybody."""
    ids = [agent.id for agent in yard.agents]
    link = Link(yard.broker.redis_url, name="bench")
    try:
        presence = Presence(link, shards=SHARDS)
        for start in range(0, len(ids), registering.ROWS):
            await presence.note(dict.fromkeys(ids[start : start + registering.ROWS], await presence.now_ms()))
    finally:
        await link.close()


async def _table_bytes(yard: Yard) -> int:
    total = "SELECT pg_total_relation_size('agents') + pg_total_relation_size('agent_keys')"
    found: int = await yard.database.fetchval(total)
    return found


# --- the rate, by how many agents it spreads over --------------------------------------------------------


async def _measure_rates(yard: Yard, console: Console) -> None:
    plan, rig = yard.plan, yard.rig
    runs: dict[int, list[Run]] = {spread: [] for spread in plan.spreads}
    ceilings: list[Run] = []
    secrets = {path_of(number): agent.signing_secret for number, agent in enumerate(yard.agents)}
    await rig.prepare(_fleet(yard, plan.spreads[0]), secrets)
    await rig.run_product(max(200, plan.messages // 10))
    await rig.run_ceiling(max(200, plan.messages // 10))
    for _ in range(plan.repeat):
        for spread in plan.spreads:
            await rig.publish_to(_fleet(yard, spread))
            runs[spread].append(await rig.run_product(plan.messages))
            yard.tell(console, f"{spread} agents: {runs[spread][-1].per_second:,.0f}/s")
        ceilings.append(await rig.run_ceiling(plan.messages))
        yard.tell(console, f"ceiling: {ceilings[-1].per_second:,.0f}/s")
    await rig.finish()
    _report_rates(yard.findings, runs, ceilings)


def _fleet(yard: Yard, spread: int) -> Fleet:
    skills = min(SKILLS, yard.plan.spreads[0])
    groups = [[f"among-{spread}", f"skill-{number}"] for number in range(min(skills, spread))]
    return Fleet(agents=[agent.id for agent in yard.agents[:spread]], skills=groups)


def _report_rates(findings: Findings, runs: dict[int, list[Run]], ceilings: list[Run]) -> None:
    ceiling = median([one.per_second for one in ceilings])
    rates = {spread: median([one.per_second for one in of]) for spread, of in runs.items()}
    parts = sorted({part for of in runs.values() for part in of[0].cpu_us})
    rows: list[list[Cell]] = []
    for spread, of in runs.items():
        cpu: list[Cell] = [round(median([one.cpu_us.get(part, 0.0) for one in of]), 1) for part in parts]
        rows.append([spread, rates[spread], rates[spread] / ceiling, round(cores_busy(of), 2), *cpu])
        missing, duplicates = sum(one.missing for one in of), sum(one.duplicates for one in of)
        if missing or duplicates:
            findings.wrong.append(f"{spread} agents: {missing} missing, {duplicates} twice")
    findings.tables.append(
        Table(
            "Flat out, by how many of the agents it spreads over",
            ["agents", "messages/s", "of the ceiling", "cores busy", *(f"{part} us" for part in parts)],
            rows,
            f"Half named, half by capability; the ceiling of the same run: {ceiling:,.0f}/s.",
        )
    )
    findings.curves.append(
        Curve(
            "rate",
            "End to end, all agents registered",
            "agents the traffic spreads over",
            "messages/s",
            {
                "the broker": [(float(spread), rate) for spread, rate in rates.items()],
                "the ceiling": [(float(spread), ceiling) for spread in rates],
            },
        )
    )
    ratio = max(rates.values()) / min(rates.values())
    findings.aims.append(
        Aim("rate over 10 to all agents", f"within {SPREAD_AIM}x", f"{ratio:.2f}x", ratio <= SPREAD_AIM)
    )


# --- heartbeats ------------------------------------------------------------------------------------------


Ways = dict[str, Callable[[], Coroutine[None, None, Beaten]]]


async def _measure_heartbeats(yard: Yard, console: Console) -> None:
    """Let agents beat at the rate of all of them, one way after the other; the idle broker is taken off.

    An agent is stored once a minute, however it beats. So that this neither falls into a way by chance nor is
    left out, everybody is stored before the ways of a round, which takes less than that minute; what it costs
    is measured by itself and added to each. Storing takes as long as an agent may be silent, so everybody is
    heard of anew before each way: who comes back after a silence is written through, which is another thing.
    """
    plan = yard.plan
    echo_s = min(plan.quiet_s, ECHO_S)
    if plan.waits_for_record:
        await _hear_all(yard)
    await _vacuum(yard)
    await _settle(yard)
    _, spent = await _spent(yard, asyncio.sleep(plan.quiet_s))
    idle = {part: seconds / plan.quiet_s for part, seconds in spent.items()}
    stored: list[Cpu] = []
    shares: dict[str, tuple[Beaten, Cpu]] = {}
    for ways in _rounds(yard):
        if _LIVE in ways:
            ids = [agent.id for agent in yard.agents]
            await beating.connect(yard.broker.redis_url, ids, shards=SHARDS)
        if plan.waits_for_record:
            began = monotonic()
            _, storing = await _spent(yard, _hear_all(yard))
            seconds = monotonic() - began
            stored.append(_beyond(idle, storing, seconds=seconds, over_s=STORED_EVERY_S))
        await _vacuum(yard)
        for way, beats in ways.items():
            if not way.startswith(_FLOOR):
                await _settle(yard)
            beaten, spent = await _spent(yard, _with_echo(beats(), echo_s))
            seconds = plan.beat_s + beaten.late_s + echo_s
            shares[way] = (beaten, _beyond(idle, spent, seconds=seconds, over_s=plan.beat_s))
    once = {part: median([one.get(part, 0.0) for one in stored]) if stored else 0.0 for part in _PARTS}
    rows: list[list[Cell]] = [
        ["nobody beats", None, None, sum(idle.values()), *_shares(idle)],
        ["stored once a minute, in all ways below", None, None, sum(once.values()), *_shares(once)],
    ]
    cores: dict[str, float] = {}
    for way, (beaten, share) in shares.items():
        if way.startswith(_FLOOR):
            used = share
        else:
            used = {part: share.get(part, 0.0) + once.get(part, 0.0) for part in {*share, *once}}
            cores[way] = sum(used.values())
        rows.append([way, *beaten, sum(used.values()), *_shares(used)])
        yard.tell(console, f"heartbeats, {way}: {sum(used.values()):.3f} of a core")
    yard.findings.tables.append(
        Table(
            f"Heartbeats of {plan.agents:,} agents, each every {plan.period_s:.0f} s: share of one core",
            ["way", "last one late by s", "refused", "all", *_PARTS],
            rows,
            "Beyond what the broker uses with nobody beating (first row), measured after the rows were "
            "vacuumed and the keeper had read its last signs twice; all are online. Agents beat in no "
            f"order; live connections are renewed every {beating.RENEWAL_S:.0f} s. Floors: empty 204s, "
            "answered by the framework, and members of a sorted set that nobody reads.",
        )
    )
    for way, core in cores.items():
        yard.findings.aims.append(
            Aim(
                f"heartbeats, {way}",
                f"< {HEARTBEAT_CORE_AIM:.0%} of a core",
                f"{core:.1%}",
                core < HEARTBEAT_CORE_AIM,
            )
        )


def _rounds(yard: Yard) -> list[Ways]:
    """Return the ways to beat; those of a round together take less than a minute."""
    plan, url, api_url = yard.plan, yard.broker.redis_url, yard.broker.api_url
    beat_s = plan.beat_s
    some = int(plan.agents * beat_s / plan.period_s)
    order = list(range(plan.agents))
    random.Random(plan.agents).shuffle(order)
    ids, keys = [yard.agents[n].id for n in order], [yard.keys[n] for n in order[:some]]
    return [
        {
            "HTTP, each with its own key": lambda: beating.over_http(api_url, keys, seconds=beat_s),
            "HTTP, 1,000 agents a request": lambda: beating.together_over_http(
                api_url, yard.broker.api_key, ids[-some:], seconds=beat_s
            ),
        },
        {
            "natively, a command each": lambda: beating.natively(
                url, ids[:some], shards=SHARDS, seconds=beat_s
            ),
            "natively, 1,000 agents a command": lambda: beating.together_natively(
                url, ids[-some:], shards=SHARDS, seconds=beat_s
            ),
        },
        {
            _LIVE: lambda: beating.by_renewal(url, ids, shards=SHARDS, seconds=beat_s),
            f"{_FLOOR}, HTTP: as many empty answers": lambda: beating.nothing_over_http(
                api_url, keys, seconds=beat_s
            ),
            f"{_FLOOR}, natively: as many bare commands": lambda: beating.nothing_natively(
                url, ids[:some], seconds=beat_s
            ),
        },
    ]


async def _vacuum(yard: Yard) -> None:
    await yard.database.execute("VACUUM (ANALYZE) agents, agent_keys")


async def _settle(yard: Yard) -> None:
    """Hear of everybody, and wait until the keeper no longer reads those signs again."""
    await _note_all(yard)
    await asyncio.sleep(min(yard.plan.quiet_s, SETTLE_S))


def _beyond(idle: Cpu, spent: Cpu, *, seconds: float, over_s: float) -> Cpu:
    """Return what was spent in so many seconds beyond idling, as shares of a core over another time."""
    return {part: max(0.0, used - idle.get(part, 0.0) * seconds) / over_s for part, used in spent.items()}


_FLOOR: Final = "floor"
_LIVE: Final = "live connections (without the gateway)"
_PARTS: Final = ["gateway", "worker", "keeper", "valkey", "postgres"]


def _shares(used: Cpu) -> list[Cell]:
    return [round(used.get(part, 0.0), 4) for part in _PARTS]


async def _with_echo(beats: Coroutine[None, None, Beaten], echo_s: float) -> Beaten:
    """Wait a little longer, so that what the keeper writes afterwards counts as well."""
    beaten = await beats
    await asyncio.sleep(echo_s)
    return beaten


async def _spent(yard: Yard, work: Coroutine[Any, None, Found]) -> tuple[Found, Cpu]:  # whatever it waits for
    cpu = CpuMeter(yard.broker.roots)
    cpu.start()
    found = await work
    return found, cpu.seconds()


# --- agents with a message waiting -----------------------------------------------------------------------


async def _measure_waiting(yard: Yard, console: Console) -> None:
    """One message each, for agents that pull and are away, who come back; then for endpoints that refuse."""
    before = await watching.redis_memory_at_rest(yard.redis)
    yard.agents = await registering.move(yard.pool, yard.connection, yard.agents, lambda _: None)
    low = first_id_at(await watching.now_ms(yard.redis))
    pulls = await _one_waiting_each(yard, before, attempted=False)
    yard.tell(console, f"waiting, agents that pull: {pulls[0]:.0f} bytes beyond the payload")
    began = monotonic()
    yard.agents = await registering.move(
        yard.pool, yard.connection, yard.agents, yard_endpoint(yard.rig.ports)
    )
    count = len(yard.agents)
    await _until_recorded(yard, low, count, attempted=True)
    drained_s = monotonic() - began
    after = await watching.redis_memory_at_rest(yard.redis)
    yard.tell(console, f"everybody back: {count / drained_s:,.0f}/s")
    refused = f"http://127.0.0.1:{_closed_port()}/hook"
    yard.agents = await registering.move(yard.pool, yard.connection, yard.agents, lambda _: refused)
    refusing = await _one_waiting_each(yard, after, attempted=True)
    rows: list[list[Cell]] = [
        ["agents that pull and are away", *pulls],
        ["endpoints that refuse: attempted once, a retry waits", *refusing],
    ]
    yard.findings.tables.append(
        Table(
            "Redis bytes for each agent with one waiting message",
            ["agents", "beyond the payload", "payload"],
            rows,
            f"Given endpoints, the first got their messages at {count / drained_s:,.0f}/s; of what had been "
            f"taken {1 - (after.data - before.data) / (sum(pulls) * count):.0%} was given back.",
        )
    )
    for name, each in (("an agent that pulls", pulls[0]), ("an endpoint that refuses", refusing[0])):
        yard.findings.aims.append(
            Aim(
                f"Redis bytes for one waiting message of {name}, beyond the payload",
                f"<= {WAITING_BYTES_AIM}",
                f"{each:.0f}",
                each <= WAITING_BYTES_AIM,
            )
        )


async def _one_waiting_each(
    yard: Yard, before: watching.RedisMemory, *, attempted: bool
) -> tuple[float, float]:
    """Publish one message to every agent; return the bytes of Redis it takes beyond its payload, and that."""
    low = first_id_at(await watching.now_ms(yard.redis))
    async with await StreamPublisher.open(yard.broker.redis_url) as publisher:
        for start in range(0, len(yard.agents), PUBLISH_MESSAGES_PER_ENTRY_MAX):
            some = yard.agents[start : start + PUBLISH_MESSAGES_PER_ENTRY_MAX]
            await publisher.publish_many(
                [message({"url": "https://example.com/honda"}, to=one.id) for one in some]
            )
    await _until_recorded(yard, low, len(yard.agents), attempted=attempted)
    found = await (watching.redis_memory if attempted else watching.redis_memory_at_rest)(yard.redis)
    payload = await _payload_bytes(yard)
    return (found.data - before.data) / len(yard.agents) - payload, payload


async def _payload_bytes(yard: Yard) -> float:
    """Return the mean size of the messages that wait for some of the agents."""
    sample = yard.agents[:: max(1, len(yard.agents) // SAMPLE)]
    streams = [Keys(shard_of(one.id, SHARDS)).mailbox(one.id, Lane.NORMAL) for one in sample]
    found = await yard.connection.send_many([("XRANGE", stream, "-", "+", "COUNT", 1) for stream in streams])
    sizes = [len(entries[0][1][1]) for entries in found if entries]
    if not sizes:
        raise Stuck("nothing waits")
    return sum(sizes) / len(sizes)


def _closed_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


# --- waiting ---------------------------------------------------------------------------------------------


async def _until_recorded(yard: Yard, low: str, count: int, *, attempted: bool) -> None:
    """Wait until so many messages since the id `low` are in PostgreSQL (with an attempt). Raises: Stuck."""
    began, seen = monotonic(), 0
    while True:
        high = first_id_at(await watching.now_ms(yard.redis) + 1_000)
        found = await yard.commits.count(low, high)
        reached = min(found.messages, found.attempted) if attempted else found.messages
        if reached >= count:
            return
        if reached > seen:
            began, seen = monotonic(), reached
        watching.be_patient(began, PATIENCE_S, f"{count} published, {reached} recorded")
        await asyncio.sleep(0.3)


if __name__ == "__main__":
    run("many_agents", "Many agents", main, add_arguments)
