"""The journal of faults: what was done to whom, from when to when, and whether it could cut a message off."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from chaos.notes import Notes


class Spell(Struct):
    """A fault as it happened. `interrupts`: what was in flight to a
    receiver then may be sent again."""

    kind: str
    target: str
    since: float
    until: float
    interrupts: bool


class Journal:
    """Appends, counts, remembers."""

    def __init__(self, path: Path) -> None:
        self._notes = Notes(path)
        self.counts: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.spells: list[Spell] = []

    def struck(self, kind: str, target: str, *, interrupts: bool, at: float | None = None) -> None:
        """Note what happened in an instant."""
        moment = time.time() if at is None else at
        self.keep(Spell(kind, target, moment, moment, interrupts))

    @contextmanager
    def during(self, kind: str, target: str, *, interrupts: bool, **more: object) -> Iterator[None]:
        """Note what lasts as long as the context is open."""
        since = self._notes.append("begins", kind=kind, target=target, **more)
        try:
            yield
        finally:
            self.keep(Spell(kind, target, since, time.time(), interrupts))

    def skip(self, kind: str, why: str) -> None:
        """Note a fault that was drawn and could not be done."""
        self.skipped[kind] += 1
        self._notes.append("skipped", kind=kind, why=why)

    def say(self, what: str, **more: object) -> None:
        """Note anything else worth reading afterwards."""
        self._notes.append(what, **more)

    def keep(self, spell: Spell) -> None:
        """Note a fault that is over."""
        self.counts[spell.kind] += 1
        self.spells.append(spell)
        self._notes.append(
            "fault",
            kind=spell.kind,
            target=spell.target,
            since=spell.since,
            until=spell.until,
            interrupts=spell.interrupts,
        )
