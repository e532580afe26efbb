"""Every agent in memory: by id, by name, and as candidates for routing by capability.

Each process with a directory loads it once and keeps it fresh from the registry and from presence. It decides
who counts as silent; it does not decide who gets a message (`routing`), and does no I/O.

Invariants: the index agrees with the agents after every call; a slot belongs to one agent at a time and is
used again after its removal; the time seen by `sweep` never goes backwards.
"""

from array import array
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Final

from broker.core.index import Funnel, Index, Pool
from schema.agent import Agent, AgentStatus
from schema.limits import ONLINE_MS, SILENT_AFTER_MS

_NOBODY: Final = Agent(id="", name="", status=AgentStatus.DISABLED)


class Directory:
    """The agents. `by_slot` turns what a pool holds into agents; only routing reads it."""

    def __init__(self, *, silent_after_ms: int = SILENT_AFTER_MS) -> None:
        self.by_slot: list[Agent] = []
        self.index = Index()
        self._slots: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._free: list[int] = []
        self._silence = Silence(silent_after_ms)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, agent_id: str) -> bool:
        return agent_id in self._slots

    def agents(self) -> Iterator[Agent]:
        """Yield every agent. The directory must not change meanwhile."""
        return (self.by_slot[slot] for slot in self._slots.values())

    def get(self, agent_id: str) -> Agent | None:
        """Return the agent with this id."""
        slot = self._slots.get(agent_id)
        return None if slot is None else self.by_slot[slot]

    def resolve(self, ref: str) -> Agent | None:
        """Return the agent with this id or name."""
        slot = self._slots.get(ref)
        if slot is None:
            slot = self._slots.get(self._names.get(ref, ""))
        if slot is None:
            slot = self._slots.get(ref.lower())  # an id as some libraries spell it
        return None if slot is None else self.by_slot[slot]

    def put(self, agent: Agent) -> None:
        """Add an agent or replace what was known of it.

        Signs of life: its `heartbeat_ms`, and its registration or any change of its record, because somebody
        who means to use it just touched it.
        """
        slot = self._slots.get(agent.id)
        if slot is None:
            slot = self._take_slot(agent)
            self.index.add(slot, agent)
        else:
            known, self.by_slot[slot] = self.by_slot[slot], agent
            if known.name != agent.name:
                self._forget_name(known)
            if _indexed(known) != _indexed(agent):
                self.index.discard(slot, known)
                self.index.add(slot, agent)
        self._names[agent.name] = agent.id
        self._hear(slot, max(agent.heartbeat_ms, agent.updated_ms))

    def remove(self, agent_id: str) -> None:
        """Forget an agent; one that is not known is fine."""
        slot = self._slots.pop(agent_id, None)
        if slot is None:
            return
        agent, self.by_slot[slot] = self.by_slot[slot], _NOBODY
        self._forget_name(agent)
        self.index.discard(slot, agent)
        self._silence.forget(slot)
        self._free.append(slot)

    def heard(self, agent_id: str, at_ms: int) -> bool:
        """Note a sign of life: a heartbeat, an authenticated call, a successful push. Tell whether the agent
        was silent before it."""
        slot = self._slots.get(agent_id)
        return slot is not None and at_ms > self._silence.heard_ms[slot] and self._hear(slot, at_ms)

    def sweep(self, now_ms: int) -> None:
        """Take those who have fallen silent out of routing. `pool` and `funnel` do this by themselves."""
        for slot in self._silence.fallen_by(now_ms):
            self.index.set_silent(slot, self.by_slot[slot])

    def last_heard_ms(self, agent_id: str) -> int:
        """Return the last sign of life, 0 when there was none."""
        slot = self._slots.get(agent_id)
        return 0 if slot is None else self._silence.heard_ms[slot]

    def is_online(self, agent_id: str, now_ms: int) -> bool:
        """Tell whether the agent gave a sign of life within the last minute: what presence shows."""
        return now_ms - self.last_heard_ms(agent_id) <= ONLINE_MS

    def is_silent(self, agent_id: str) -> bool:
        """Tell whether routing by capability skips the agent for its silence, as of the last sweep."""
        slot = self._slots.get(agent_id)
        return slot is None or not self.index.is_heard(slot)

    def pool(self, requirements: tuple[str, ...], message_type: str, sender: str | None, now_ms: int) -> Pool:
        """Return the candidates for a message as of now."""
        if now_ms >= self._silence.due_ms:
            self.sweep(now_ms)
        return self.index.pool(requirements, message_type, sender)

    def funnel(
        self, requirements: tuple[str, ...], message_type: str, sender: str | None, now_ms: int
    ) -> Funnel:
        """Return what each filter leaves of the agents as of now."""
        self.sweep(now_ms)
        return self.index.funnel(requirements, message_type, sender)

    def _take_slot(self, agent: Agent) -> int:
        if self._free:
            slot = self._free.pop()
            self.by_slot[slot] = agent
        else:
            slot = len(self.by_slot)
            self.by_slot.append(agent)
            self._silence.grow()
        self._slots[agent.id] = slot
        return slot

    def _hear(self, slot: int, at_ms: int) -> bool:
        is_back = self._silence.hear(slot, at_ms) and not self.index.is_heard(slot)
        if is_back:
            self.index.set_heard(slot, self.by_slot[slot])
        return is_back

    def _forget_name(self, agent: Agent) -> None:
        # Another agent may have the name by now: the registry does not say in which order.
        if self._names.get(agent.name) == agent.id:
            del self._names[agent.name]


class Silence:
    """When each slot was last heard, and who has been silent for too long.

    Slots lie in buckets of about a second, by the time they were heard when they were put there. Hearing one
    again does not move it: a bucket that falls due sorts its slots anew, so each moves at most once per
    `silent_after_ms` however often it is heard. Silence is judged in whole buckets.
    """

    __slots__ = (
        "_bucket_of",
        "_buckets",
        "_limit",
        "_order",
        "_width_ms",
        "due_ms",
        "heard_ms",
        "silent_after_ms",
    )

    def __init__(self, silent_after_ms: int) -> None:
        self.silent_after_ms = silent_after_ms
        self.heard_ms = array("q")
        self.due_ms = 0
        # A sixteenth when tests shrink the time: a second would then be coarser than the time itself.
        self._width_ms = max(1, min(1_000, silent_after_ms // 16))
        self._limit = 0
        self._bucket_of = array("q")
        self._buckets: dict[int, list[int]] = {}
        self._order: list[int] = []

    def grow(self) -> None:
        """Make room for one more slot, never heard."""
        self.heard_ms.append(0)
        self._bucket_of.append(-1)

    def forget(self, slot: int) -> None:
        """Make the slot as new."""
        self.heard_ms[slot] = 0
        self._bucket_of[slot] = -1

    def hear(self, slot: int, at_ms: int) -> bool:
        """Note a sign of life; tell whether the slot counts as heard now."""
        if at_ms > self.heard_ms[slot]:
            self.heard_ms[slot] = at_ms
        if self._bucket_of[slot] >= 0:
            return True
        bucket = self.heard_ms[slot] // self._width_ms
        if bucket < self._limit:
            return False
        self._file(slot, bucket)
        return True

    def fallen_by(self, now_ms: int) -> Iterable[int]:
        """Return the slots that fell silent since the last call."""
        self._limit = limit = max(self._limit, (now_ms - self.silent_after_ms) // self._width_ms)
        fallen = []
        while self._order and self._order[0] < limit:
            bucket = heappop(self._order)
            for slot in self._buckets.pop(bucket):
                if self._bucket_of[slot] != bucket:
                    continue
                heard_in = self.heard_ms[slot] // self._width_ms
                if heard_in < limit:
                    self._bucket_of[slot] = -1
                    fallen.append(slot)
                else:
                    self._file(slot, heard_in)
        self._set_due()
        return fallen

    def _file(self, slot: int, bucket: int) -> None:
        self._bucket_of[slot] = bucket
        slots = self._buckets.get(bucket)
        if slots is None:
            self._buckets[bucket] = [slot]
            heappush(self._order, bucket)
            self._set_due()
        else:
            slots.append(slot)

    def _set_due(self) -> None:
        oldest = self._order[0] if self._order else self._limit
        self.due_ms = (oldest + 1) * self._width_ms + self.silent_after_ms


def _indexed(agent: Agent) -> tuple[object, ...]:
    return agent.capabilities, agent.status, agent.accepts, agent.allow_from
