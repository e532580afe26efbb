"""The HTTP client against a real gateway."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from gateway_rig import OPERATOR_KEY, held, settings_for, until_ready
from recording import recording
from resetting import resetting

from broker.client.failures import error_of
from broker.client.http import AgentClient
from broker.gateway.serve import Running
from schema.errors import (
    AgentMismatch,
    Conflict,
    IllegalTransition,
    NameTaken,
    NotFound,
    Rejected,
    Unauthenticated,
    Unavailable,
    UnknownRecipient,
)
from schema.http import ErrorBody
from schema.ids import new_id


@pytest.fixture
async def gateway(streams_url: str, database_url: str) -> AsyncIterator[Running]:
    async with held(settings_for(streams_url, database_url)) as one:
        await until_ready(one)
        async with recording(streams_url, one.services.pool):
            yield one


async def test_a_task_goes_there_and_its_result_comes_back(gateway: Running) -> None:
    async with AgentClient(gateway.url, OPERATOR_KEY) as operator:
        assert await operator.is_ready()
        bot = await operator.register("bot")
        scraper = await operator.register("scraper", type="scraper", capabilities=["scrape"])
        async with (
            AgentClient(gateway.url, bot.api_key) as asking,
            AgentClient(gateway.url, scraper.api_key) as working,
        ):
            assert (await working.heartbeat("scraper")).is_online
            assert [agent.name async for agent in asking.agents(capabilities=["scrape"], online=True)] == [
                "scraper"
            ]
            sent = await asking.send({"n": 1}, to="scraper", message_type="task", conversation_id="c")
            waiting = [message async for message in working.messages(status="pending")]
            assert waiting == [sent]
            assert (sent.from_agent_id, sent.content) == (bot.id, {"n": 1})
            done = await working.processed(sent.id, {"cars": 3})
            assert (done.status, done.result) == ("processed", {"cars": 3})
            assert (await asking.message(sent.id)) == done
            assert await asking.attempts(sent.id) == []
            assert (await asking.route(sent.id))["route"] is None
            with pytest.raises(IllegalTransition):
                await asking.cancel(sent.id)


async def test_pages_are_followed_to_the_end(gateway: Running) -> None:
    async with AgentClient(gateway.url, OPERATOR_KEY, agent_id="bot") as operator:
        bot = await operator.register("bot")
        batch = [{"to_agent_id": "bot", "content": {"n": n}} for n in range(250)]
        results = await operator.send_batch([*batch, {"to_agent_id": "nobody"}])
        assert [result.error.code for result in results if result.error] == ["unknown_recipient"]
        await operator.send({}, to="bot", priority=10)  # recorded after the rest
        listed = [message async for message in operator.messages(to="bot")]
        assert sorted(m.content["n"] for m in listed if m.priority == 5) == list(range(250))
        assert {message.from_agent_id for message in listed} == {bot.id}


async def test_what_the_broker_refuses_is_raised_by_its_code(gateway: Running) -> None:
    async with AgentClient(gateway.url, OPERATOR_KEY) as operator:
        agent = await operator.register("a")
        with pytest.raises(NameTaken):
            await operator.register("a")
        with pytest.raises(UnknownRecipient) as unknown:
            await operator.send({}, to="nobody")
        assert unknown.value.field == "to_agent_id"
        with pytest.raises(Rejected) as rejected:
            await operator.send({}, to="a", priority=0, message_type="")
        assert {fault.field for fault in rejected.value.faults} == {"priority", "message_type"}
        with pytest.raises(NotFound):
            await operator.message(new_id())
        async with AgentClient(gateway.url, agent.api_key, agent_id="b") as claiming:
            with pytest.raises(AgentMismatch):
                await claiming.send({}, to="a")
    async with AgentClient(gateway.url, "wrong") as stranger:
        with pytest.raises(Unauthenticated):
            await stranger.agent("a")


async def test_a_broker_that_cannot_be_reached_is_unavailable_after_a_few_tries(unused_port: int) -> None:
    async with AgentClient(f"http://127.0.0.1:{unused_port}", "key") as client:
        assert not await client.is_ready()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await client.message(new_id())


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def test_sending_is_tried_again_with_the_same_id(gateway: Running) -> None:
    """A proxy drops the first reply: the message was accepted, the client does not know."""
    requests: list[bytes] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        requests.append(body)
        there, back = await asyncio.open_connection("127.0.0.1", gateway.port)
        back.write(head.replace(b"keep-alive", b"close") + body)
        answer = await there.read()
        back.close()
        if len(requests) > 1:
            writer.write(answer)
        writer.close()
        await asyncio.gather(writer.wait_closed(), back.wait_closed(), return_exceptions=True)

    async with AgentClient(gateway.url, OPERATOR_KEY) as operator:
        await operator.register("a")
        async with await asyncio.start_server(pass_on, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            async with AgentClient(f"http://127.0.0.1:{port}", OPERATOR_KEY) as client:
                sent = await client.send({"n": 1}, to="a")
        assert len(requests) == 2
        assert requests[0] == requests[1]
        assert [message.id async for message in operator.messages(to="a")] == [sent.id]


async def test_connections_that_are_reset_as_soon_as_they_are_made_are_a_broker_that_is_away() -> None:
    with resetting() as port:
        for _ in range(60):
            async with AgentClient(f"http://127.0.0.1:{port}", OPERATOR_KEY) as client:
                with pytest.raises(Unavailable):
                    # Not repeated by the client itself.
                    await client.register("a")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (422, "something_new", Rejected),
        (409, "something_new", Conflict),
        (429, "something_new", Unavailable),
        (502, "unknown", Unavailable),
        (503, "store_unavailable", Unavailable),
    ],
)
def test_an_unknown_code_belongs_to_the_branch_of_its_status(
    status: int, code: str, kind: type[Exception]
) -> None:
    assert isinstance(error_of(status, ErrorBody(code=code, message="m")), kind)
