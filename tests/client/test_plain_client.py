"""The synchronous client against a real gateway, from a thread as a script would use it."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway_rig import OPERATOR_KEY, held, settings_for, until_ready
from recording import recording

from broker.client import Client, NotFound, Rejected, Unavailable
from broker.client import credentials as kept
from broker.client.profile import Identity
from broker.gateway.serve import Running
from schema.errors import NameTaken


@pytest.fixture
async def gateway(streams_url: str, database_url: str) -> AsyncIterator[Running]:
    async with held(settings_for(streams_url, database_url)) as one:
        await until_ready(one)
        async with recording(streams_url, one.services.pool):
            yield one


async def test_a_script_does_what_an_agent_does(gateway: Running) -> None:
    def script() -> None:
        with Client(gateway.url, OPERATOR_KEY) as operator:
            assert operator.is_ready()
            bot = operator.register("bot", capabilities=["talk"])
            results = operator.send_batch([{"to_agent_id": "bot", "content": {"n": n}} for n in range(120)])
            assert all(result.id for result in results)
            assert [agent.name for agent in operator.agents(capabilities=["talk"])] == ["bot"]
            # What a batch has accepted is recorded soon, and before what is sent after it.
            operator.send({}, to="bot", priority=10)
            with Client(gateway.url, bot.api_key) as own:
                waiting = list(own.inbox())
                assert sorted(m.content["n"] for m in waiting if m.priority == 5) == list(range(120))
                assert own.inbox.mark_read(waiting[0].message_id).success
                assert own.processed(waiting[1].message_id, {"ok": True}).result == {"ok": True}
                assert own.presence.update(status_message="busy").is_online
                stream = own.inbox.stream()
                assert next(stream).name == "hello"
                stream.close()  # type: ignore[attr-defined]  # it is a generator
            assert operator.presence("bot").status_message == "busy"
            with pytest.raises(NotFound):
                operator.agent("nobody")

    await asyncio.to_thread(script)


async def test_a_broker_that_cannot_be_reached_is_unavailable() -> None:
    def script() -> None:
        with Client("http://127.0.0.1:9", "key") as client:
            assert not client.is_ready()
            with pytest.raises(Unavailable, match="cannot be reached"):
                client.register("x")
            with pytest.raises(Unavailable):
                list(client.inbox.stream())

    await asyncio.to_thread(script)


async def test_an_agent_registers_once_and_comes_back_with_what_it_kept(
    gateway: Running, tmp_path: Path
) -> None:
    file = tmp_path / "agents" / "one.json"

    def identity(*, file: Path | None) -> Identity:
        return Identity(
            "one",
            url=gateway.url,
            key=None,
            operator_key=OPERATOR_KEY,
            credentials_file=file,
            signing_secret=None,
        )

    key, secret = await identity(file=file).find({"capabilities": ["x"]})
    assert await identity(file=file).find({}) == (key, secret)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert os.listdir(file.parent) == [file.name]
    with pytest.raises(NameTaken, match="its key is not here"):
        await identity(file=None).find({})
    file.write_text("{}")
    with pytest.raises(Rejected, match="holds no credentials"):
        kept.load(file)
