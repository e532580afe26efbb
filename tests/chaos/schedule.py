"""What happens when: drawn from the seed before anything starts, so that a run can be done again.

The moments and the faults are the same for the same seed and length; what each meets is not, because the
processes themselves are not.
"""

import random
from typing import Final, NamedTuple

from chaos import faults
from chaos.faults import Fault

PER_MINUTE: Final[dict[type[Fault], float]] = {
    faults.KillWorker: 8.5,
    faults.KillGateway: 0.8,
    faults.KillRecorder: 1.2,
    faults.KillKeeper: 0.6,
    faults.Drain: 1.0,
    faults.Sleep: 0.7,
    faults.ClockStep: 0.8,
    faults.KillRedis: 2.3,
    faults.RedisOutOfMemory: 0.3,
    faults.CrashPostgres: 0.85,
    faults.RedisDiskFull: 0.15,
    faults.PostgresDiskFull: 0.15,
    faults.Latency: 1.5,
    faults.Reset: 1.5,
    faults.BlackHole: 1.2,
    faults.Cut: 1.2,
}
"""How often each comes in a full run, on average."""
ONCE: Final = (faults.PostgresOutage,)


class Turn(NamedTuple):
    """A fault and when it begins, in seconds from the start."""

    at_s: float
    fault: Fault


def draw(seed: int, minutes: float, *, brief: bool) -> list[Turn]:
    """Return the faults of a run, in order. `brief`: each kind once or twice, whatever the length."""
    chance = random.Random(f"{seed}/schedule")
    turns = []
    for kind, rate in PER_MINUTE.items():
        count = min(6, max(1, round(rate))) if brief else max(1, round(rate * minutes))
        turns += _spread(kind, count, minutes * 60, chance, brief=brief)
    for kind in ONCE:
        turns += _spread(kind, 1, minutes * 60, chance, brief=brief)
    return sorted(turns, key=lambda turn: turn.at_s)


def _spread(
    kind: type[Fault], count: int, length_s: float, chance: random.Random, *, brief: bool
) -> list[Turn]:
    """Spread a kind over the run: one in each part of it, at a random moment there."""
    part_s = length_s / count
    return [Turn((n + chance.random()) * part_s, kind(chance, brief=brief)) for n in range(count)]
