"""One run from beginning to end: the deployment, the faults, the drain, the verdict, the report."""

import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from broker.store.migrate import migrate
from chaos import account, canary, crash_points, history, record, verdict
from chaos import report as reports
from chaos.deployment import SETTINGS, Deployment, Wanted
from chaos.journal import Journal
from chaos.notes import lines
from chaos.report import Report
from chaos.standstill import watched
from chaos.stores import save_logs, stores


async def run(wanted: Wanted) -> Report:
    """Run it all and return the report."""
    began, began_s = datetime.now(UTC), time.monotonic()
    wanted.folder.mkdir(parents=True)
    journal = Journal(wanted.folder / "journal")
    canaries = canary.Canaries()
    async with AsyncExitStack() as stack:
        stack.enter_context(watched(journal))
        running = await stack.enter_async_context(stores(wanted.home))
        stack.callback(save_logs, running, wanted.folder)
        await migrate(running.database_url)
        deployment = Deployment(wanted, running, journal, canaries, stack)
        await deployment.start()
        chaos_s = await deployment.torment()
        left = await deployment.drain()
        codes = await deployment.fleet.stop()
        world = account.World()
        await record.read_record(world, running.database_url)
        figures = deployment.links.figures()
    world.sent = account.read_sent(lines(wanted.folder / "published"))
    account.read_received(world, lines(wanted.folder / "received"))
    spells = [*journal.spells, *verdict.lost_leases(wanted.folder)]
    found = account.compare(world, spells)
    logs = {f"log of {path.stem}": path for path in sorted((wanted.folder / "logs").glob("*.log"))}
    servers = {f"log of {name}": wanted.folder / f"{name}.log" for name in ("redis", "postgres")}
    canaries.search_files({**logs, **servers})
    offenders = found.faults()
    history.write(wanted.folder, offenders, world, spells)
    fleet = deployment.fleet
    gates = verdict.gates(wanted, found, left, fleet, journal, canaries, codes)
    return Report(
        seed=wanted.seed,
        commit=reports.commit(),
        machine=reports.machine(),
        began=f"{began:%Y-%m-%d %H:%M} UTC",
        minutes=(time.monotonic() - began_s) / 60,
        chaos_minutes=chaos_s / 60,
        mutant=wanted.mutant,
        settings=SETTINGS,
        figures=found.figures,
        ends=found.ends,
        faults=dict(journal.counts.most_common()),
        crash_points={name: fleet.fired[name] for name in crash_points.POINTS},
        skipped=dict(journal.skipped),
        exits={slot.name: dict(slot.exits.most_common()) for slot in fleet.slots.values()},
        events=verdict.events(logs.values()),
        links=figures,
        left_in_redis=left,
        gates=gates,
        offenders=offenders,
        canary_hits=dict(canaries.hits),
    )
