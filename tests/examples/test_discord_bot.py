"""The Discord example: Discord behind the test doubles for discord.py (dpytest), the broker real."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import discord
import discord.ext.test as doubles
import pytest
from example_rig import at_work

from broker.client import Agent, AgentClient, Message
from examples import discord_bot


@pytest.fixture
async def bot_agent(where: dict[str, str]) -> AsyncIterator[Agent]:
    """The example's agent at work, its bot on a made-up server with one channel."""
    agent = discord_bot.make_agent(**where)
    bot = discord_bot.make_bot(agent, intents=discord.Intents.all())
    # What `bot.start` does before it connects; the doubles stand in for the connection.
    await bot._async_setup_hook()
    doubles.configure(bot, guilds=1, text_channels=["general"], members=1)
    async with at_work(agent):
        yield agent
    await doubles.empty_queue()


@asynccontextmanager
async def shouter(where: dict[str, str]) -> AsyncIterator[None]:
    """An agent that says what it is told, louder."""
    agent = Agent("shouter", capabilities=["shout"], **where)

    @agent.on("message")
    async def shout(message: Message) -> dict[str, str]:
        return {"text": message.content["text"] + "!"}

    async with at_work(agent):
        yield


async def test_a_question_on_the_channel_is_answered_by_a_capable_agent(
    bot_agent: Agent, where: dict[str, str]
) -> None:
    async with shouter(where):
        await doubles.message("!ask shout hello @everyone")
    said = doubles.get_message().content
    assert said.startswith("hello ")
    assert said.endswith("!")
    assert "@everyone" not in said, "an agent must not call a whole server"


async def test_nobody_capable_is_said_in_words(bot_agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discord_bot, "ANSWER_S", 0.3)
    await doubles.message("!ask levitate please")
    assert "Nobody who can levitate" in doubles.get_message().content


async def test_the_channel_hears_who_is_there(bot_agent: Agent) -> None:
    await doubles.message("!agents")
    assert "discord" in doubles.get_message().content


async def test_an_announcement_is_spoken_into_the_channel(bot_agent: Agent, operator: AgentClient) -> None:
    done = await operator.messages.send(
        {"text": "The broker is up."},
        to="discord",
        message_type="announcement",
        wait="processed",
        timeout_ms=20_000,
    )
    assert done.status == "processed"
    assert doubles.get_message().content == "The broker is up."


async def test_an_announcement_nobody_can_speak_fails_with_the_reason(
    bot_agent: Agent, operator: AgentClient
) -> None:
    done = await operator.messages.send(
        {}, to="discord", message_type="announcement", wait="processed", timeout_ms=20_000
    )
    assert done.status == "failed"
    assert "text" in done.status_reason
