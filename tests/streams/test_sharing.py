"""What is asked together: each gets its own answer, none to a question that was under way before it."""

import asyncio
from collections.abc import Sequence

from broker.streams.sharing import Shared


class Asked:
    """Answers questions in rounds that end when they are let go."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.ends: list[asyncio.Event] = []
        self.begun = asyncio.Condition()

    async def __call__(self, questions: Sequence[int]) -> dict[int, str]:
        async with self.begun:
            self.rounds.append(list(questions))
            self.ends.append(asyncio.Event())
            end, number = self.ends[-1], len(self.rounds)
            self.begun.notify_all()
        await end.wait()
        return {question: f"{question} of {number}" for question in questions if question >= 0}

    async def until_begun(self, count: int) -> None:
        async with asyncio.timeout(5), self.begun:
            await self.begun.wait_for(lambda: len(self.rounds) >= count)


async def test_who_asks_during_a_round_gets_an_answer_of_the_next_and_no_more_run_at_once_than_may() -> None:
    asked = Asked()
    shared = Shared(asked, apart_s=0.001, at_once=1, together=3)
    first = [asyncio.ensure_future(shared.ask(question)) for question in (1, 1, -2)]
    await asked.until_begun(1)
    assert asked.rounds == [[1, -2]]
    later = [asyncio.ensure_future(shared.ask(question)) for question in (1, 3, 4, 5)]
    await asyncio.sleep(0.01)  # Ten times as long as rounds are apart: one that may begin has begun.
    assert len(asked.rounds) == 1
    asked.ends[0].set()
    assert await asyncio.gather(*first) == ["1 of 1", "1 of 1", None]
    await asked.until_begun(2)
    asked.ends[1].set()
    await asked.until_begun(3)
    asked.ends[2].set()
    assert await asyncio.gather(*later) == ["1 of 2", "3 of 2", "4 of 2", "5 of 3"]
    assert asked.rounds[1:] == [[1, 3, 4], [5]]


async def test_a_slow_round_holds_up_no_other_where_two_may_run() -> None:
    asked = Asked()
    shared = Shared(asked, apart_s=0.001, at_once=2, together=1)
    slow, quick = (asyncio.ensure_future(shared.ask(question)) for question in (1, 2))
    await asked.until_begun(2)
    asked.ends[1].set()
    assert await quick == "2 of 2"
    assert not slow.done()
    asked.ends[0].set()
    assert await slow == "1 of 1"
