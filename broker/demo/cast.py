"""Who takes part in the demonstration, and what the chat bot asks of them. Pure.

A run's capabilities carry its tag: agents of an earlier run, whose processes are gone, must not be
candidates for this one's tasks.
"""

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

BOT: Final = "chat_bot"
HANG_S: Final = 1.5
"""How long a hanging attempt is left unanswered: longer than the tasks' own time-out."""
TASK_TIMEOUT_S: Final = 1
MAX_RETRIES: Final = 8


class Part(Struct, frozen=True, kw_only=True):
    """One scraper: what it can do, how long a task takes, on how many it works at
    once, how often a first attempt goes wrong, and when its
    process comes (None: at once; otherwise after so large a share of the tasks has been asked)."""

    name: str
    skills: tuple[str, ...]
    work_ms: tuple[int, int]
    hands: int = 4
    refuses: float = 0.0
    hangs: float = 0.0
    comes_at: float | None = None


SCRAPERS: Final = (
    Part(name="scraper_honda", skills=("scrape", "honda"), work_ms=(5, 20)),
    Part(
        name="scraper_toyota",
        skills=("scrape", "toyota", "honda"),
        work_ms=(10, 60),
        refuses=0.15,
        hangs=0.03,
    ),
    Part(name="scraper_all_makes", skills=("scrape", "honda", "toyota", "bmw"), work_ms=(40, 120)),
    Part(name="price_watch", skills=("prices", "bmw"), work_ms=(15, 40), comes_at=0.6),
)

_WANTS: Final = (("scrape", "honda"), ("scrape", "toyota"), ("scrape", "bmw"), ("prices",))


class Task(Struct, frozen=True, kw_only=True):
    """One thing the bot asks: of somebody by name (`to`), or of anybody with the `requirements`."""

    number: int
    content: dict[str, Any]  # JSON as an agent would write it
    to: str | None = None
    requirements: tuple[str, ...] = ()
    priority: int = 5


def tasks(count: int, *, tag: str, names: dict[str, str]) -> Iterator[Task]:
    """Yield the tasks in the order they are asked: every other by name, the rest by capability. No two say
    the same: who repeats itself is in a loop, and is stopped.

    `names`: what each part is called in this run.
    """
    for number in range(count):
        half = number // 2
        if number % 2 == 0:
            part = SCRAPERS[half % len(SCRAPERS)]
            make = part.skills[-1]
            to: str | None = names[part.name]
            requirements: tuple[str, ...] = ()
        else:
            wanted = _WANTS[half % len(_WANTS)]
            make, to = wanted[-1], None
            requirements = tagged(wanted, tag)
        yield Task(
            number=number,
            to=to,
            requirements=requirements,
            priority=2 if number % 10 == 0 else 5,
            content={
                "task_type": "scrape",
                "parameters": {"url": f"https://cars.example/{make}?page={number + 1}"},
            },
        )


def tagged(skills: tuple[str, ...], tag: str) -> tuple[str, ...]:
    """Return capabilities as this run spells them; the first run on a broker has no tag."""
    return tuple(f"{skill}{tag}" for skill in skills)


def mishap(part: Part, *, attempt: int, chance: float) -> str | None:
    """Say what goes wrong with an attempt (`refuse` or `hang`), if anything.

    Only first attempts go wrong: a scraper that always fails would show patience, not retries.
    """
    if attempt > 1:
        return None
    if chance < part.refuses:
        return "refuse"
    return "hang" if chance < part.refuses + part.hangs else None


def name_in_round(name: str, round_number: int) -> str:
    """Return what an agent is called when the names of so many earlier runs are taken."""
    return name if round_number == 1 else f"{name}_{round_number}"
