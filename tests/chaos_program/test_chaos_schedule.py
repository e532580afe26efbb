"""The schedule: the same for the same seed, and enough of everything in a full run."""

from collections import Counter

from chaos import faults, schedule

FULL_MINUTES = 32


def shown(seed: int) -> list[tuple[float, str, object]]:
    turns = schedule.draw(seed, 5, brief=False)
    return [(at_s, fault.kind, vars(fault)) for at_s, fault in turns]


def test_a_seed_says_what_happens_when() -> None:
    assert shown(1) == shown(1)
    assert shown(1) != shown(2)


def test_a_full_run_has_enough_of_everything() -> None:
    turns = schedule.draw(1, FULL_MINUTES, brief=False)
    counts = Counter(type(turn.fault) for turn in turns)
    # Crash points kill workers, too, and are not drawn here.
    assert counts[faults.KillWorker] >= 250
    assert counts[faults.KillRedis] >= 70
    assert counts[faults.CrashPostgres] >= 25
    assert counts[faults.PostgresOutage] == 1
    assert min(counts[kind] for kind in schedule.PER_MINUTE) >= 4
    assert all(turn.at_s <= FULL_MINUTES * 60 for turn in turns)


def test_a_short_run_has_each_kind() -> None:
    counts = Counter(type(turn.fault) for turn in schedule.draw(1, 0.5, brief=True))
    assert counts.keys() == {*schedule.PER_MINUTE, *schedule.ONCE}
