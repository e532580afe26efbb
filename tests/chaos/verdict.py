"""The verdict on a run: its gates, and what the processes said of themselves."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from chaos import account, canary, crash_points
from chaos.deployment import LEASE_MS, Wanted
from chaos.fleet import Fleet
from chaos.journal import Journal, Spell
from chaos.report import Gate

FULL_AIMS: Final = {
    "acknowledged": 20_000,
    "kills of workers": 300,
    "kills of Redis": 60,
    "crashes of Postgres": 20,
}


def gates(
    wanted: Wanted,
    found: account.Account,
    left: dict[str, int],
    fleet: Fleet,
    journal: Journal,
    canaries: canary.Canaries,
    codes: dict[str, int],
) -> list[Gate]:
    every = [
        Gate(name.replace("_", " "), len(ids), 0, not ids)
        for name, ids in ((name, getattr(found, name)) for name in account.LISTS)
    ]
    bound = found.figures["in flight while something was cut off (the bound)"]
    duplicates = found.figures["duplicates"]
    every.append(Gate("duplicates", duplicates, bound, duplicates <= bound))
    every.append(Gate("left in Redis", sum(left.values()), 0, not left))
    hits = sum(canaries.hits.values())
    every.append(Gate("secrets in logs and metrics", hits, 0, not hits))
    unclean = sum(code != 0 for code in codes.values())
    every.append(Gate("unclean ends after the drain", unclean, 0, not unclean))
    unasked = sum(
        count
        for slot in fleet.slots.values()
        for how, count in slot.exits.items()
        if how.startswith("by itself")
    )
    every.append(Gate("processes that ended unasked", unasked, 0, not unasked))
    if wanted.aims:
        done = {
            "acknowledged": found.figures["acknowledged"],
            "kills of workers": journal.counts["kill of a worker"]
            + journal.counts["crash point of a worker"],
            "kills of Redis": journal.counts["kill of Redis"],
            "crashes of Postgres": journal.counts["crash of Postgres"],
        }
        every += [
            Gate(name, done[name], aim, done[name] >= aim, at_least=True) for name, aim in FULL_AIMS.items()
        ]
        silent = [name for name in crash_points.POINTS if not fleet.fired[name]]
        every.append(Gate("crash points never reached", len(silent), 0, not silent))
    return every


def lost_leases(folder: Path) -> list[Spell]:
    """Return when workers lost leases or a shard, by their own account: on a busy machine nobody need have
    done anything to them."""
    spells = []
    for path in sorted((folder / "logs").glob("worker-*.log")):
        for event in _logged(path):
            lost = event.get("event") == "lease.lost" and event.get("trade") == "deliver"
            if lost or event.get("event") in ("shard.failed", "shard.broken"):
                at = datetime.fromisoformat(event["at"]).timestamp()
                # It may have slept through the end of its lease: then it was out of touch for longer.
                since = at - (LEASE_MS + event.get("late_ms", 0)) / 1000
                spells.append(Spell(event["event"], path.stem, since, at, interrupts=True))
    return spells


def events(logs: Iterable[Path]) -> dict[str, int]:
    """Count the warnings and errors the processes logged, and lines that are no events."""
    counts: Counter[str] = Counter()
    for path in logs:
        for event in _logged(path):
            if event.get("level") in ("warning", "error", None):
                counts[f"{path.stem.split('-')[0]}: {event.get('event', 'not an event')}"] += 1
    return dict(counts.most_common())


def _logged(path: Path) -> list[dict[str, Any]]:  # Any: JSON
    found = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            found.append({})
    return found
