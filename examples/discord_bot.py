"""A Discord bot that is an agent: people ask other agents from a channel, and agents speak to the channel.

    pip install discord.py
    AGENT_API_KEY=<operator key> DISCORD_TOKEN=<bot token> python examples/discord_bot.py

    !ask summarize The long text ...     whichever agent can `summarize` answers
    !agents                              who is there

Agents write to the channel by sending the bot a message of type `announcement`: {"text": "..."}.
"""

import asyncio
import os
from typing import Any

import discord
from discord.ext import commands

from broker.client import Agent, BrokerError, Message, NoAnswer

CHANNEL = "general"
ANSWER_S = 30.0
CHARS_MAX = 1_900
"""Discord takes 2,000 characters a message."""


def make_agent(**more: Any) -> Agent:  # whatever Agent takes
    """Return the bot's agent."""
    return Agent("discord", type="discord_bot", **more)


def make_bot(
    agent: Agent, *, channel_name: str = CHANNEL, intents: discord.Intents | None = None
) -> commands.Bot:
    """Return the bot that speaks for the agent, and let the agent speak through the bot."""
    bot = commands.Bot(command_prefix="!", intents=intents or reading_intents())

    @bot.command()
    async def ask(context: commands.Context[commands.Bot], capability: str, *, text: str) -> None:
        """Ask whichever agent has the capability."""
        await context.send(shown(await answer(agent, capability, text)))

    @bot.command()
    async def agents(context: commands.Context[commands.Bot]) -> None:
        """Say who is there."""
        names = [other.name async for other in agent.client.agents(online=True)]
        await context.send(shown(", ".join(sorted(names)) or "nobody"))

    @agent.on("announcement")
    async def announce(message: Message) -> None:
        channel = discord.utils.get(bot.get_all_channels(), name=channel_name)
        if not isinstance(channel, discord.TextChannel):
            raise LookupError(f"there is no text channel {channel_name!r}")
        await channel.send(shown(str(message.content["text"])))

    return bot


def reading_intents() -> discord.Intents:
    """Return what the bot has to be allowed: to read what people write."""
    intents = discord.Intents.default()
    intents.message_content = True
    return intents


async def answer(agent: Agent, capability: str, text: str) -> str:
    """Return what an agent with the capability answers, or in words why there is no answer."""
    try:
        reply = await agent.ask({"text": text}, requirements=[capability], timeout_s=ANSWER_S)
    except TimeoutError:
        return f"Nobody who can {capability} has answered in time; the question is not lost."
    except (NoAnswer, BrokerError) as error:
        return f"That did not work: {error}"
    return str(reply.content.get("text", reply.content))


def shown(text: str) -> str:
    """Return what fits into a message and mentions nobody: agents' words are not the server's."""
    return discord.utils.escape_mentions(text)[:CHARS_MAX]


async def main(token: str) -> None:
    """Run the bot and its agent, until one of them ends."""
    agent = make_agent()
    async with agent, make_bot(agent) as bot, asyncio.TaskGroup() as group:
        group.create_task(agent.serve())
        group.create_task(bot.start(token))


if __name__ == "__main__":
    asyncio.run(main(os.environ["DISCORD_TOKEN"]))
