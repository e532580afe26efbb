"""The history of an offender: all that anybody noted about one message, in the order of time."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from chaos.account import World
from chaos.journal import Spell
from chaos.notes import Line, lines

NEAR_S: Final = 3.0
"""Faults so long before and after what happened to the message are told as well."""
OFFENDERS_MAX: Final = 25


def write(folder: Path, faults: dict[str, list[str]], world: World, spells: Sequence[Spell]) -> None:
    """Write a file for each offender, up to a number of each kind."""
    for kind, ids in faults.items():
        for message_id in ids[:OFFENDERS_MAX]:
            path = folder / "offenders" / kind / f"{message_id}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(_told(folder, message_id, world, spells)) + "\n")


def _told(folder: Path, message_id: str, world: World, spells: Iterable[Spell]) -> list[str]:
    told = [(line["at"], f"{line.pop('what'):<10} {line}") for line in _noted(folder, message_id)]
    if told:
        first, last = min(at for at, _ in told) - NEAR_S, max(at for at, _ in told) + NEAR_S
        told += [
            (spell.since, f"FAULT      {spell.kind}: {spell.target}, {spell.until - spell.since:.2f} s")
            for spell in spells
            if spell.since <= last and spell.until >= first
        ]
    words = [f"message {message_id}", f"rows: {world.rows.get(message_id)}"]
    words += [f"attempts: {world.attempts.get(message_id)}", ""]
    words += [f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f} {text}" for at, text in sorted(told)]
    words += ["", "in the logs:"]
    for log in sorted((folder / "logs").glob("*.log")):
        words += [
            f"{log.stem}: {line}"
            for line in log.read_text(errors="replace").splitlines()
            if message_id in line
        ]
    return words


def _noted(folder: Path, message_id: str) -> list[Line]:
    return [
        line
        for path in (folder / "published", folder / "received")
        for line in lines(path)
        if message_id in (line.get("id"), line.get("reply_to"))
    ]
