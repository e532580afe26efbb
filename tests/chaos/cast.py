"""Who takes part: the agents of a run, how each behaves, and what only they can do."""

from enum import Enum
from typing import Final

from msgspec import Struct


class Manner(Enum):
    """How an agent treats what is pushed to it; `PULLING` ones have no endpoint."""

    PROMPT = "prompt"
    SLOW = "slow"
    FLAKY = "flaky"
    REPLYING = "replying"
    FAILING = "failing"
    PULLING = "pulling"


class Part(Struct):
    """One agent. `skill`: a capability, shared or none."""

    name: str
    manner: Manner
    skill: str = ""


CAST: Final = (
    *(Part(f"prompt-{n}", Manner.PROMPT, "translate") for n in range(4)),
    *(Part(f"quick-{n}", Manner.PROMPT, "summarise") for n in range(2)),
    Part("slow-0", Manner.SLOW),
    Part("slow-1", Manner.SLOW),
    Part("flaky-0", Manner.FLAKY),
    Part("flaky-1", Manner.FLAKY),
    Part("replying-0", Manner.REPLYING),
    Part("failing-0", Manner.FAILING),
    Part("puller-0", Manner.PULLING),
    Part("puller-1", Manner.PULLING),
    Part("sender-0", Manner.PULLING),
    Part("sender-1", Manner.PULLING),
)
"""Senders are named as such: what is told to senders (replies, bounces) lies in their inboxes."""

SKILLS: Final = ("translate", "summarise")
