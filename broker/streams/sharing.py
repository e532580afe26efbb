"""Questions that come one by one and are asked together: a command or a statement each is most of what a
heartbeat would cost (100,000 agents send 3,333 a second, each with a key nobody remembers).

What is answered was asked for first: nobody gets an answer to a question that was under way before. The same
question of several is asked once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

from broker.streams.owed import owed

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Shared(Generic[Question, Answer]):
    """Asks for many callers. Those that wait are bounded by the requests a gateway has open.

    `ask_all` answers what it can. It runs `at_once` times at most, begins no sooner than `apart_s` after it
    last began, and takes no more than `together` questions; what does not fit waits for the next. Whoever
    comes after a pause is not held up.
    """

    def __init__(
        self,
        ask_all: Callable[[Sequence[Question]], Awaitable[Mapping[Question, Answer]]],
        *,
        apart_s: float,
        at_once: int,
        together: int,
    ) -> None:
        self._ask_all = ask_all
        self._apart_s = apart_s
        self._at_once = at_once
        self._together = together
        self._waiting: dict[Question, list[asyncio.Future[Answer | None]]] = {}
        # Not a TaskGroup: a round outlives the call that began it, and fails only those that wait for it.
        self._tasks: set[asyncio.Task[None]] = set()
        self._began_s = -apart_s
        self._next: asyncio.TimerHandle | None = None

    async def ask(self, question: Question) -> Answer | None:
        """Return the answer, None where there is none. Raises: what `ask_all` does."""
        # A future each: a caller that goes away takes no other along.
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(question, []).append(answer)
        self._plan()
        return await answer

    def _plan(self) -> None:
        if self._waiting and self._next is None and len(self._tasks) < self._at_once:
            # Never at once: who asks in the same turn of the loop comes along.
            self._next = asyncio.get_running_loop().call_at(self._began_s + self._apart_s, self._begin)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._next, self._began_s = None, loop.time()
        first = list(islice(self._waiting, self._together))
        batch = {question: self._waiting.pop(question) for question in first}
        task = loop.create_task(self._round(batch))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        self._plan()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._plan()

    async def _round(self, batch: dict[Question, list[asyncio.Future[Answer | None]]]) -> None:
        with owed([answer for answers in batch.values() for answer in answers]):
            found = await self._ask_all(list(batch))
            for question, answers in batch.items():
                for answer in answers:
                    if not answer.done():  # else its caller was cancelled
                        answer.set_result(found.get(question))
