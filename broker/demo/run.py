"""`agent-broker demo`: registers a fleet, lets it work, shows it, and checks that nothing was lost."""

import argparse
import asyncio
import os
from contextlib import suppress
from time import monotonic
from typing import Final, Self

from msgspec import Struct
from rich.console import Console
from rich.live import Live

from broker.client.http import AgentClient
from broker.demo.account import Account, Record, settle
from broker.demo.actor import Brief
from broker.demo.cast import name_in_round, tagged, tasks
from broker.demo.stage import Actor, Stage
from broker.demo.tables import closing, progress, progress_line, verdict
from schema.agent import RegisteredAgent
from schema.errors import BrokerError, NameTaken
from schema.times import to_ms

TASKS_PER_S_MIN: Final = 40
ASKING_S_MAX: Final = 15
"""A demonstration nobody watches to its end shows nothing: more tasks are asked faster."""
PATIENCE_S: Final = 90.0
"""Without any progress for this long the rest counts as lost: longer than three retries take."""
LOOK_S: Final = 0.25
LINE_S: Final = 2.0
ROUNDS_MAX: Final = 1_000
REQUESTS_MAX: Final = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("--tasks", type=int, default=300, help="how many tasks the bot asks (default 300)")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the broker's address")
    parser.add_argument("--key", default="", help="operator key; default: AGENT_API_KEY")


def main(args: argparse.Namespace) -> int:
    """Run the demonstration; return 0, or 1 where something was lost or the broker did not let us."""
    console = Console()
    try:
        account = asyncio.run(_demonstrate(console, url=args.url, key=_key(args), total=args.tasks))
    except BrokerError as error:
        console.print(f"{error.code}: {error.message}", style="red")
        return 1
    except KeyboardInterrupt:
        console.print("stopped", style="yellow")
        return 130
    console.print(verdict(account), style="green" if account.complete else "bold red")
    return 0 if account.complete else 1


def _key(args: argparse.Namespace) -> str:
    # The command line fills in the key of a broker that runs on the data directory.
    return str(args.key or os.environ.get("AGENT_API_KEY", ""))


async def _demonstrate(console: Console, *, url: str, key: str, total: int) -> Account:
    async with AgentClient(url, key) as operator, Stage() as stage:
        company = await _engage(operator, stage, url=url)
        await _perform(console, stage, company, total=total)
        records = await _records(operator, stage)
        account = settle(stage.bot.asked, records, stage.bot.answers, refused=stage.bot.counts.trouble)
        console.print(closing(account, stage.bot.round_trips_ms))
        return account


class Company(Struct, kw_only=True):
    """The agents as they are registered, by the name of their part, and the tag of this run."""

    url: str
    agents: dict[str, RegisteredAgent]
    tag: str

    def brief(self, actor: Actor, *, total: int = 0) -> Brief:
        """Return what an actor must know; with `total` also so many tasks, which makes it the bot."""
        agent = self.agents[actor.role]
        names = {role: agent.name for role, agent in self.agents.items()}
        return Brief(
            api_url=self.url,
            api_key=agent.api_key,
            agent_id=agent.id,
            secret=agent.signing_secret,
            endpoint_fd=actor.descriptor,
            part=actor.part,
            tasks=list(tasks(total, tag=self.tag, names=names)),
            tasks_per_s=max(TASKS_PER_S_MIN, total // ASKING_S_MAX),
        )


async def _engage(operator: AgentClient, stage: Stage, *, url: str) -> Company:
    """Register everybody; the bot's free name says how many runs there have been before."""
    bot, round_number = await _register(operator, stage.bot, tag="")
    company = Company(
        url=url, agents={stage.bot.role: bot}, tag="" if round_number == 1 else f"-{round_number}"
    )
    for actor in stage.scrapers:
        company.agents[actor.role], _ = await _register(operator, actor, tag=company.tag)
    return company


async def _register(operator: AgentClient, actor: Actor, *, tag: str) -> tuple[RegisteredAgent, int]:
    """Register an actor under the first free form of its name; return the agent and the form's number."""
    skills = actor.part.skills if actor.part is not None else ()
    for number in range(1, ROUNDS_MAX):
        with suppress(NameTaken):
            agent = await operator.register(
                name_in_round(actor.role, number),
                type="scraper" if actor.part is not None else "discord_bot",
                endpoint=actor.endpoint,
                capabilities=list(tagged(skills, tag)),
            )
            actor.name = agent.name
            return agent, number
    raise NameTaken(f"{ROUNDS_MAX} agents are called {actor.role} something")


async def _perform(console: Console, stage: Stage, company: Company, *, total: int) -> None:
    """Let everybody enter, the latecomers when it is their time, until all is answered or nothing moves."""
    for actor in stage.scrapers:
        if actor.part is not None and actor.part.comes_at is None:
            await actor.enter(company.brief(actor))
    await stage.bot.enter(company.brief(stage.bot, total=total))
    with Screen(console, stage, total) as screen:
        seen, moved_at = stage.steps, monotonic()
        while (
            len(stage.bot.answers) + stage.bot.counts.trouble < total and monotonic() - moved_at < PATIENCE_S
        ):
            await _call_latecomers(stage, company, len(stage.bot.asked) / total)
            await asyncio.sleep(LOOK_S)
            screen.refresh()
            if stage.steps != seen:
                seen, moved_at = stage.steps, monotonic()


async def _call_latecomers(stage: Stage, company: Company, share: float) -> None:
    """Let those enter whose time has come, and again those whose process has died."""
    for actor in stage.scrapers:
        if not actor.is_here and actor.part is not None and share >= (actor.part.comes_at or 0.0):
            await actor.enter(company.brief(actor))


async def _records(operator: AgentClient, stage: Stage) -> dict[str, Record]:
    """Ask the broker for every task and its attempts."""
    names = {}
    for actor in stage.scrapers:
        names[(await operator.agent(actor.name)).id] = actor.name
    gate = asyncio.Semaphore(REQUESTS_MAX)

    async def one(task_id: str) -> Record:
        async with gate:
            message = await operator.message(task_id)
            attempts = await operator.attempts(task_id)
        took_ms = None
        if message.delivered_at is not None:
            took_ms = to_ms(message.delivered_at) - to_ms(message.created_at)
        return Record(
            id=task_id,
            agent=names.get(message.to_agent_id or "", message.to_agent_id),
            status=message.status,
            attempts=tuple(attempt.status for attempt in attempts),
            delivered_ms=took_ms,
        )

    return {record.id: record for record in await asyncio.gather(*map(one, stage.bot.asked))}


class Screen:
    """A live table on a terminal, a line every two seconds elsewhere."""

    def __init__(self, console: Console, stage: Stage, total: int) -> None:
        self._console = console
        self._stage = stage
        self._total = total
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._said_at = monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._console.print(progress_line(self._stage, self._total), soft_wrap=True)

    def refresh(self) -> None:
        if self._live is not None:
            self._live.update(progress(self._stage, self._total), refresh=True)
        elif monotonic() - self._said_at >= LINE_S:
            self._said_at = monotonic()
            self._console.print(progress_line(self._stage, self._total), soft_wrap=True)
