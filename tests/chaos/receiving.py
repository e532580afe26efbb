"""The receivers, a process of their own: endpoints, and agents that pull.

    python -m chaos.receiving LEDGER

Says its port, then takes JSON lines on its standard input: `trust` (agent -> signing secret), `pull` (agents
that pull: name -> id, through which gateways, with which key), `well` (from now on everybody answers well).
Ends when the input does. Every request is noted before it is answered, and every answer before it is sent.
"""

import asyncio
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from receivers import DROP, Answer, Received, Receivers, Script

from broker.client.http import AgentClient
from chaos.cast import CAST, Manner
from chaos.dying import die_with_parent
from chaos.notes import Notes
from schema.errors import BrokerError, Conflict, NotFound

SLOW_S = (0.02, 0.3)
FLAKY_PARTS = (0.12, 0.16)
"""Up to the first: 503. Up to the second: the connection ends in the middle of the answer."""
REPLY_PART = 0.3
PULL_S = 0.5
PULLED_TIMEOUT_S = 5.0


def chance_of(request: Received) -> float:
    """Return a number from 0 to 1 that is the same for every attempt of this number of this message."""
    return random.Random(f"{request.id}/{request.attempt}").random()


async def _answer(manner: Manner, request: Received) -> Answer:
    chance = chance_of(request)
    match manner:
        case Manner.SLOW:
            low, high = SLOW_S
            await asyncio.sleep(low + (high - low) * chance)
        case Manner.FLAKY:
            unavailable, dropped = FLAKY_PARTS
            if chance < unavailable:
                return Answer(503)
            if chance < dropped:
                return Answer(DROP)
        case Manner.REPLYING if chance < REPLY_PART:
            return Answer(200, body={"reply": {"to": request.id}})
        case Manner.FAILING:
            return Answer(500)
    return Answer()


class Ledger:
    """Notes receipts and answers, each under a serial number."""

    def __init__(self, path: Path) -> None:
        self._notes = Notes(path)
        self._serials: dict[tuple[str, int], int] = {}
        self._next = 0
        self.is_well = False
        """Whether everybody answers well from now on."""

    def note(self, request: Received) -> None:
        self._next += 1
        self._serials[request.id, request.nth] = self._next
        self._notes.append(
            "received",
            id=request.id,
            serial=self._next,
            attempt=request.attempt,
            agent=request.agent,
            verified=request.verified,
            type=request.message.get("message_type"),
            reply_to=request.message.get("reply_to"),
        )

    def answered(self, request: Received, status: int) -> None:
        serial = self._serials.pop((request.id, request.nth))
        self._notes.append("answered", id=request.id, serial=serial, status=status)

    def pulled(self, agent: str, message: dict[str, Any]) -> None:  # Any: JSON
        self._notes.append("pulled", agent=agent, **message)

    def finished(self, agent: str, message_id: str, how: str) -> None:
        self._notes.append("finished", agent=agent, id=message_id, how=how)

    def script(self, manner: Manner) -> Script:
        """Return a script that answers in this manner and notes what it answers."""

        async def script(request: Received) -> Answer:
            answer = await _answer(Manner.PROMPT if self.is_well else manner, request)
            self.answered(request, answer.status)
            return answer

        return script


async def pull(name: str, agent_id: str, gateways: Sequence[str], key: str, ledger: Ledger) -> None:
    """Take what comes, note it, say that it is processed until somebody has answered; through one gateway or
    the next, for ever."""
    turn = 0
    unsaid: list[str] = []
    while True:
        url = gateways[turn % len(gateways)]
        turn += 1
        try:
            async with AgentClient(url, key, agent_id=agent_id, timeout_s=PULLED_TIMEOUT_S) as client:
                while await _finish(client, name, unsaid, ledger) and await _pull_page(
                    client, name, agent_id, unsaid, ledger
                ):
                    pass
        except BrokerError:
            pass  # nobody knows whether it was done: what was not answered is said again
        await asyncio.sleep(PULL_S)


async def _finish(client: AgentClient, name: str, unsaid: list[str], ledger: Ledger) -> bool:
    while unsaid:
        try:
            await client.processed(unsaid[-1], {"by": name})
        except (Conflict, NotFound) as error:
            ledger.finished(name, unsaid.pop(), error.code)
        else:
            ledger.finished(name, unsaid.pop(), "processed")
    return True


async def _pull_page(
    client: AgentClient, name: str, agent_id: str, unsaid: list[str], ledger: Ledger
) -> bool:
    page = await client.inbox.page(agent_id=agent_id, limit=50)
    for message in page.messages:
        ledger.pulled(name, {"id": message.message_id, "type": message.type, "reply_to": message.reply_to})
        unsaid.append(message.message_id)
    return len(page.messages) > 0


async def _run(ledger: Ledger) -> None:
    async with Receivers(ledger.note) as receivers, asyncio.TaskGroup() as group:
        urls = {
            part.name: receivers.endpoint(part.name, ledger.script(part.manner))
            for part in CAST
            if part.manner is not Manner.PULLING
        }
        port = int(next(iter(urls.values())).rsplit(":", 1)[1].split("/")[0])
        os.write(1, msgspec.json.encode({"port": port}) + b"\n")
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        pulling: list[asyncio.Task[None]] = []
        while line := await reader.readline():
            command = msgspec.json.decode(line)
            ledger.is_well |= command.get("well", False)
            for agent, secret in command.get("trust", {}).items():
                receivers.trust(agent, secret)
            for agent, agent_id in command.get("pull", {}).items():
                work = pull(agent, agent_id, command["gateways"], command["key"], ledger)
                pulling.append(group.create_task(work))
        for task in pulling:
            task.cancel()


if __name__ == "__main__":
    die_with_parent()
    uvloop.run(_run(Ledger(Path(sys.argv[1]))))
