"""Agents at work on a whole broker, over each way in."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import uvicorn
from line import Line

from broker.client import Agent, AgentClient, Message, NoAnswer, NotFound, Retry
from broker.client.life import Transport
from broker.client.values import SentMessage
from broker.servers.running import Running
from schema.errors import AgentMismatch, Conflict, Rejected, Unauthenticated

WAYS: tuple[Transport, ...] = ("websocket", "poll", "webhook")
PULLING: tuple[Transport, ...] = ("websocket", "poll")
each_way = pytest.mark.parametrize("way", WAYS)
each_pulling_way = pytest.mark.parametrize("way", PULLING)
PATIENCE_S = 30.0

pytestmark = pytest.mark.e2e


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make(running: Running, name: str, way: Transport, **more: Any) -> Agent:
    """Make an agent that registers itself."""
    given: dict[str, Any] = {"url": running.api_url, "operator_key": running.api_key, "drain_s": 10}
    if way == "webhook":
        port = free_port()
        given |= {"endpoint": f"http://127.0.0.1:{port}/", "listen": ("127.0.0.1", port)}
    return Agent(name, transport=way, **(given | more))


@asynccontextmanager
async def serving(*agents: Agent) -> AsyncIterator[None]:
    """Let agents work; leaving stops them gracefully."""
    async with asyncio.TaskGroup() as tasks:
        for agent in agents:
            await agent.__aenter__()
            tasks.create_task(agent.serve())
        try:
            yield
        finally:
            for agent in agents:
                agent.stop()
                await agent.__aexit__()


async def on_record(client: AgentClient, message_id: str) -> SentMessage:
    """Return a message once it is on record, which it is a moment after somebody hears it."""
    shown: list[SentMessage] = []

    async def look() -> bool:
        with suppress(NotFound):
            shown.append(await client.messages.show(message_id))
        return bool(shown)

    await until(look)
    return shown[0]


async def until(found: Callable[[], Awaitable[object]] | Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            value = found()
            if await value if isinstance(value, Awaitable) else value:
                return
            await asyncio.sleep(0.02)


@each_way
async def test_a_handler_s_value_is_the_result_and_the_answer(
    running: Running, operator: AgentClient, mark: str, way: Transport
) -> None:
    worker = make(running, f"adder-{mark}", way, capabilities=[f"add-{mark}"])
    asker = make(running, f"asker-{mark}", "websocket")

    @worker.on("task")
    async def add(message: Message) -> dict[str, Any]:
        return {"sum": sum(message.content["numbers"]), "for": message.sender}

    async with serving(worker, asker):
        named = await asker.ask({"numbers": [1, 2]}, to=f"adder-{mark}", message_type="task")
        assert named.content == {"sum": 3, "for": asker.id}
        assert named.message_type == "response"
        capable = await asker.ask({"numbers": [3]}, requirements=[f"add-{mark}"], message_type="task")
        assert capable.from_agent_id == worker.id
        assert capable.reply_to is not None

        async def is_processed() -> bool:
            message = await operator.message(str(capable.reply_to))
            return message.status == "processed" and message.result == {"sum": 3, "for": asker.id}

        await until(is_processed)


@each_way
async def test_what_a_handler_raises_fails_the_message_with_its_words(
    running: Running, operator: AgentClient, mark: str, way: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    worker = make(running, f"fails-{mark}", way)

    @worker.on("task")
    async def fail(message: Message) -> None:
        raise LookupError("no such page")

    async with serving(worker):
        sent = await operator.send({}, to=worker.id, message_type="task", wait="processed", timeout_ms=20_000)
        assert (sent.status, sent.status_reason) == ("failed", "LookupError: no such page")
        unknown = await operator.send({}, to=worker.id, message_type="x", wait="processed", timeout_ms=20_000)
        assert unknown.status == "failed"
        assert "no handler for messages of type 'x'" in str(unknown.status_reason)


@each_way
async def test_a_message_that_is_to_be_retried_comes_again(
    running: Running, operator: AgentClient, mark: str, way: Transport
) -> None:
    worker = make(running, f"busy-{mark}", way)
    attempts = []

    @worker.on()
    async def later(message: Message) -> int:
        attempts.append(message.attempt)
        if len(attempts) < 3:
            raise Retry(after=0.05)
        return len(attempts)

    async with serving(worker):
        sent = await operator.send({}, to=worker.id, wait="processed", timeout_ms=20_000)
        assert (sent.status, sent.result) == ("processed", 3)
    assert attempts == [1, 2, 3]


@each_way
async def test_no_more_handlers_run_than_the_agent_wants(
    running: Running, operator: AgentClient, mark: str, way: Transport
) -> None:
    worker = make(running, f"two-{mark}", way, concurrency=2)
    at_once, most, done = 0, 0, 0
    go_on = asyncio.Semaphore(0)

    @worker.on()
    async def work(message: Message) -> None:
        nonlocal at_once, most, done
        at_once += 1
        most = max(most, at_once)
        await go_on.acquire()
        at_once -= 1
        done += 1

    async with serving(worker):
        await operator.send_batch([{"to_agent_id": worker.id} for _ in range(6)])
        await until(lambda: at_once == 2)
        for _ in range(6):
            go_on.release()
        await until(lambda: done == 6)
    assert most == 2


@each_pulling_way
async def test_a_cut_line_loses_nothing_and_repeats_nothing(
    running: Running, operator: AgentClient, mark: str, way: Transport, line: Line
) -> None:
    worker = make(running, f"cut-{mark}", way, url=line.url)
    runs: dict[int, int] = {}
    in_the_middle = asyncio.Event()
    go_on = asyncio.Event()

    @worker.on()
    async def work(message: Message) -> int:
        number = message.content["n"]
        runs[number] = runs.get(number, 0) + 1
        if number == 3:
            in_the_middle.set()
            await go_on.wait()
        return int(number)

    async with serving(worker):
        await operator.send_batch([{"to_agent_id": worker.id, "content": {"n": n}} for n in range(6)])
        await in_the_middle.wait()
        before = line.connections
        line.cut()
        await operator.send_batch([{"to_agent_id": worker.id, "content": {"n": n}} for n in range(6, 12)])
        await until(lambda: line.connections > before)
        go_on.set()

        async def all_processed() -> bool:
            found = [m async for m in operator.messages(to=worker.id)]
            return len(found) == 12 and all(m.status == "processed" for m in found)

        await until(all_processed)
    assert runs == dict.fromkeys(range(12), 1)


async def test_an_acknowledgement_that_was_lost_is_given_again_without_working_again(
    running: Running, operator: AgentClient, mark: str, line: Line
) -> None:
    worker = make(running, f"lost-{mark}", "websocket", url=line.url)
    runs = 0

    @worker.on()
    async def work(message: Message) -> str:
        nonlocal runs
        runs += 1
        line.down = True
        line.cut()
        return "done"

    async with serving(worker):
        sent = await operator.send({}, to=worker.id)
        await until(lambda: runs == 1)
        assert (await operator.message(sent.id)).status == "pending"
        line.down = False

        async def is_processed() -> bool:
            message = await operator.message(sent.id)
            return (message.status, message.result) == ("processed", "done")

        await until(is_processed)
    assert runs == 1


@each_way
async def test_stopping_finishes_what_is_in_hand_and_takes_nothing_more(
    running: Running, operator: AgentClient, mark: str, way: Transport
) -> None:
    worker = make(running, f"stops-{mark}", way, concurrency=1)
    begun, go_on = asyncio.Event(), asyncio.Event()
    runs = 0

    @worker.on()
    async def work(message: Message) -> str:
        nonlocal runs
        runs += 1
        begun.set()
        await go_on.wait()
        return "finished"

    async with worker:
        serve = asyncio.create_task(worker.serve())
        first = await operator.send({}, to=worker.id)
        await begun.wait()
        worker.stop()
        second = await operator.send({}, to=worker.id)
        go_on.set()
        await serve
    assert runs == 1

    async def first_is_processed() -> bool:
        message = await operator.message(first.id)
        return (message.status, message.result) == ("processed", "finished")

    await until(first_is_processed)
    assert (await operator.message(second.id)).status == "pending"


async def test_a_handler_that_does_not_end_in_time_leaves_its_message_for_the_next_life(
    running: Running, operator: AgentClient, mark: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    key = (await operator.register(f"slow-{mark}")).api_key
    begun = asyncio.Event()
    first = make(running, f"slow-{mark}", "websocket", key=key, drain_s=0.1)

    @first.on()
    async def hang(message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with serving(first):
        sent = await operator.send({}, to=first.id)
        await begun.wait()
    second = make(running, f"slow-{mark}", "poll", key=key)

    @second.on()
    async def work(message: Message) -> str:
        return "by the second"

    async with serving(second):

        async def is_processed() -> bool:
            return (await operator.message(sent.id)).result == "by the second"

        await until(is_processed)


async def test_a_question_nobody_answers_raises(
    running: Running, mark: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    quiet = make(running, f"quiet-{mark}", "websocket")
    asker = make(running, f"curious-{mark}", "poll")

    @quiet.on("silent")
    async def silent(message: Message) -> None:
        return None

    @quiet.on("deaf")
    async def deaf(message: Message) -> None:
        await asyncio.Event().wait()

    async with serving(quiet), asker:
        with pytest.raises(NoAnswer, match="processed"):
            await asker.ask({}, to=f"quiet-{mark}", message_type="silent", timeout_s=20)
        with pytest.raises(TimeoutError):
            await asker.ask({}, to=f"quiet-{mark}", message_type="deaf", timeout_s=0.3)
        # What hangs for good need not be waited for.
        await quiet.up.place.desk.close()


async def test_a_handler_may_answer_by_itself_as_often_as_it_likes(running: Running, mark: str) -> None:
    worker = make(running, f"chatty-{mark}", "websocket")
    asker = make(running, f"patient-{mark}", "websocket")
    heard = []

    @worker.on("task")
    async def chat(message: Message) -> str:
        await message.reply({"part": 1}, message_type="status")
        await message.reply({"part": 2})
        return "the result only"

    @asker.on()
    async def hear(message: Message) -> None:
        heard.append((message.type, message.content, message.reply_to))

    async with serving(worker, asker):
        sent = await asker.send({}, to=f"chatty-{mark}", message_type="task")
        await until(lambda: len(heard) == 2)
    assert sorted(heard) == [("response", {"part": 2}, sent), ("status", {"part": 1}, sent)]


async def test_what_a_handler_sends_has_its_message_for_a_cause(running: Running, mark: str) -> None:
    """So loops are counted whatever the handler says; what it sends outside has none."""
    worker = make(running, f"middle-{mark}", "websocket")
    asker = make(running, f"first-{mark}", "websocket")
    last = make(running, f"last-{mark}", "websocket")
    heard: dict[str, Message] = {}

    @worker.on("task")
    async def pass_on(message: Message) -> None:
        await worker.send({}, to=f"last-{mark}", message_type="caused")

    @last.on()
    async def hear(message: Message) -> None:
        heard[message.type] = message

    async with serving(worker, asker, last):
        sent = await asker.send({}, to=f"middle-{mark}", message_type="task")
        await worker.send({}, to=f"last-{mark}", message_type="uncaused")
        await until(lambda: len(heard) == 2)
    async with AgentClient(running.api_url, running.api_key) as client:
        caused, uncaused = [await on_record(client, heard[one].id) for one in ("caused", "uncaused")]
    assert (caused.hop, caused.root_id) == (1, sent)
    assert (uncaused.hop, uncaused.root_id) == (0, uncaused.id)


async def test_agents_are_seen_to_come(running: Running, mark: str) -> None:
    watcher = make(running, f"watcher-{mark}", "websocket")
    seen = []

    @watcher.on_presence
    async def note(change: Any) -> None:
        seen.append((change.agent_id, change.state.value))

    other = make(running, f"other-{mark}", "poll")
    async with serving(watcher), other:
        await until(lambda: (other.id, "online") in seen)


# --- coming up ----------------------------------------------------------------------------------------


@each_way
async def test_an_agent_that_is_up_is_seen_online(
    running: Running, operator: AgentClient, mark: str, way: Transport
) -> None:
    async with make(running, f"seen-{mark}", way) as agent:
        assert (await operator.presence.show(agent.id)).is_online
        assert agent.id in [other.id async for other in operator.agents(online=True)]


async def test_an_agent_brings_its_record_up_to_date(
    running: Running, operator: AgentClient, mark: str
) -> None:
    registered = await operator.register(
        f"changed-{mark}", capabilities=["old"], endpoint="http://127.0.0.1:9009/hook"
    )
    agent = Agent(
        f"changed-{mark}",
        url=running.api_url,
        key=registered.api_key,
        capabilities=["new", "newer"],
        status_message="here",
    )
    async with agent:
        record = await operator.agent(registered.id)
    assert (sorted(record.capabilities), record.endpoint) == (["new", "newer"], None)
    assert record.status_message == "here"


async def test_an_operator_s_key_is_enough_for_a_registered_agent(
    running: Running, operator: AgentClient, mark: str
) -> None:
    await operator.register(f"shared-{mark}")
    agent = Agent(f"shared-{mark}", url=running.api_url, key=running.api_key)

    @agent.on()
    async def work(message: Message) -> str:
        return "done"

    async with serving(agent):
        sent = await operator.send({}, to=agent.id, wait="processed", timeout_ms=20_000)
    assert sent.result == "done"


@pytest.mark.parametrize("way", ["websocket", "webhook"])
async def test_with_an_operator_s_key_an_agent_registers_itself(
    running: Running, operator: AgentClient, mark: str, way: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_BROKER_URL", running.api_url)
    monkeypatch.setenv("AGENT_API_KEY", running.api_key)
    agent = make(running, f"new-{mark}", way, url=None, operator_key=None, capabilities=[f"new-{mark}"])

    @agent.on()
    async def work(message: Message) -> str:
        return "done"

    async with serving(agent):
        sent = await operator.send({}, requirements=[f"new-{mark}"], wait="processed", timeout_ms=20_000)
        assert (sent.to_agent_id, sent.result) == (agent.id, "done")


async def test_an_agent_s_own_key_registers_nobody(
    running: Running, operator: AgentClient, mark: str
) -> None:
    key = (await operator.register(f"own-{mark}")).api_key
    with pytest.raises(AgentMismatch):
        async with Agent(f"stranger-{mark}", url=running.api_url, key=key):
            pass


async def test_the_newer_of_two_processes_has_the_agent(
    running: Running, operator: AgentClient, mark: str
) -> None:
    key = (await operator.register(f"twice-{mark}")).api_key
    first, second = (Agent(f"twice-{mark}", url=running.api_url, key=key) for _ in range(2))
    async with first:
        serve = asyncio.create_task(first.serve())
        sent = await operator.send(
            {}, to=first.id, message_type="status", wait="processed", timeout_ms=20_000
        )
        assert sent.status == "processed"
        async with serving(second):
            with pytest.raises(Conflict, match="taken over"):
                await serve


async def test_a_wrong_key_ends_an_agent_at_once(running: Running) -> None:
    with pytest.raises(Unauthenticated):
        async with Agent("nobody", url=running.api_url, key="abk_wrong"):
            pass


async def test_an_agent_without_any_key_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENT_API_KEY", raising=False)
    with pytest.raises(Rejected, match="credentials_file"):
        async with Agent("keyless", url="http://127.0.0.1:9"):
            pass


def test_a_handler_must_be_async_and_the_only_one_of_its_type() -> None:
    agent = Agent("a", key="k")

    @agent.on("task")
    async def first(message: Message) -> None: ...

    with pytest.raises(ValueError, match="already"):
        agent.on("task")(first)
    with pytest.raises(TypeError, match="async function"):
        agent.on("other")(lambda message: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="websocket"):
        Agent("b", key="k", transport="poll").on_presence(first)
    with pytest.raises(RuntimeError, match="not up"):
        _ = agent.client


async def test_a_webhook_agent_is_mounted_in_an_application(
    running: Running, operator: AgentClient, mark: str
) -> None:
    """uvicorn's lifespan brings it up; nobody calls `serve`."""
    port = free_port()
    agent = make(running, f"mounted-{mark}", "webhook", endpoint=f"http://127.0.0.1:{port}/", listen=None)

    @agent.on()
    async def work(message: Message) -> str:
        return "by the application"

    server = QuietServer(uvicorn.Config(agent.asgi(), port=port, log_config=None, lifespan="on"))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve())
        await until(lambda: server.started)
        sent = await operator.send({}, to=agent.id, wait="processed", timeout_ms=20_000)
        assert (sent.status, sent.result) == ("processed", "by the application")
        with pytest.raises(Rejected, match="listen"):
            await agent.serve()
        server.should_exit = True
    with pytest.raises(RuntimeError, match="not up"):
        _ = agent.id


class QuietServer(uvicorn.Server):
    """Leaves the signals of the test run alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
