"""Who is asked what, and when a scraper fails on purpose."""

from collections import Counter

import pytest

from broker.demo.cast import SCRAPERS, Part, mishap, name_in_round, tagged, tasks
from schema.codec import encode

NAMES = {part.name: f"{part.name}_2" for part in SCRAPERS}
FLAKY = Part(name="x", skills=(), work_ms=(1, 1), refuses=0.2, hangs=0.1)


def test_half_of_the_tasks_are_named_and_half_go_by_capability() -> None:
    asked = list(tasks(200, tag="-2", names=NAMES))
    named = Counter(task.to for task in asked if task.to is not None)
    assert named == Counter(dict.fromkeys(NAMES.values(), 25))
    assert sum(bool(task.requirements) for task in asked) == 100
    assert all((task.to is None) == bool(task.requirements) for task in asked)


def test_no_two_tasks_say_the_same() -> None:
    """Six times the same within a minute is a loop, and stopped; the demonstration asks 300 in one."""
    bodies = [encode(task.content) for task in tasks(1_000, tag="", names=NAMES)]
    assert len(set(bodies)) == len(bodies)


@pytest.mark.parametrize("tag", ["", "-7"])
def test_somebody_can_do_every_task_that_goes_by_capability(tag: str) -> None:
    can = [set(tagged(part.skills, tag)) for part in SCRAPERS]
    for task in tasks(100, tag=tag, names=NAMES):
        assert any(set(task.requirements) <= skills for skills in can)


def test_no_task_of_a_later_run_can_go_to_an_agent_of_an_earlier_one() -> None:
    earlier = [set(tagged(part.skills, "")) for part in SCRAPERS]
    for task in tasks(100, tag="-2", names=NAMES):
        assert task.to is not None or not any(set(task.requirements) <= skills for skills in earlier)


@pytest.mark.parametrize(
    ("attempt", "chance", "expected"),
    [(1, 0.0, "refuse"), (1, 0.19, "refuse"), (1, 0.2, "hang"), (1, 0.31, None), (2, 0.0, None)],
)
def test_only_first_attempts_go_wrong(attempt: int, chance: float, expected: str | None) -> None:
    assert mishap(FLAKY, attempt=attempt, chance=chance) == expected


def test_first_run_has_the_plain_names() -> None:
    assert [name_in_round("chat_bot", number) for number in (1, 2)] == ["chat_bot", "chat_bot_2"]
