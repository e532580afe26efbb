"""The commands that ask a running broker, as people and scripts call them."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from whole_broker import WholeBroker, environment

from broker.cli import main

pytestmark = pytest.mark.e2e


class Shell:
    """Runs commands where the broker's data directory is, and nothing else is said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.mark = uuid4().hex[:8]

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run a command and return what it printed; of a refused one, what it said on stderr."""
        found = main(words)
        said = self._capsys.readouterr()
        assert found == code, said.err
        return said.err if code else said.out

    def json(self, *words: str) -> Any:
        """Run a command for programs; return its document, or its documents where there are several."""
        lines = [json.loads(line) for line in self(*words, "--json").splitlines()]
        return lines[0] if len(lines) == 1 else lines

    def rows(self, *words: str) -> list[Any]:
        return [json.loads(line) for line in self(*words, "--json").splitlines()]

    def agent(self, word: str, *more: str) -> str:
        name = f"{word}-{self.mark}"
        self("agents", "register", name, *more)
        return name


@pytest.fixture
def shell(
    calm_broker: WholeBroker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    for name in ("AGENT_API_KEY", "AGENT_BROKER_URL", "AGENT_BROKER_AGENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATA_DIR", str(calm_broker.data_dir))
    return Shell(capsys)


def test_agents_are_registered_listed_paused_and_deleted(shell: Shell) -> None:
    name = f"crud-{shell.mark}"
    made = shell.json("agents", "register", name, "--capability", "a,b", "--capability", "c")
    assert made["api_key"].startswith("abk_")
    assert [
        row["name"] for row in shell.rows("agents", "list", "--capability", "a", "--capability", "c")
    ] == [name]
    assert re.search(rf"{name} +agent +active +no +a, b, c +pulling", shell("agents", "list"))
    assert shell.json("agents", "pause", name)["status"] == "paused"
    assert shell.json("agents", "resume", name)["status"] == "active"
    key = shell.json("agents", "keys", "add", name)
    assert {row["id"] for row in shell.rows("agents", "keys", "list", name)} >= {key["id"]}
    assert shell.json("agents", "keys", "revoke", name, key["id"])["is_live"] is False
    assert shell.json("agents", "keys", "rotate", name, "--overlap-s", "0")["api_key"].startswith("abk_")
    assert shell.json("agents", "delete", name)["status"] in ("deleted", "draining")
    assert "not_found" in shell("agents", "show", name, code=1)


def test_a_message_is_sent_and_read(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    name = shell.agent("reader", "--capability", f"read-{shell.mark}")
    sent = shell.json("send", '{"n": 1}', "--to", name, "--type", "task", "--priority", "2")
    assert (sent["status"], sent["content"]) == ("pending", {"n": 1})
    assert shell.json("send", "--text", "hi", "--requires", f"read-{shell.mark}")["content"] == {"text": "hi"}
    monkeypatch.setenv("AGENT_BROKER_AGENT", name)
    assert "task" in shell("inbox")
    assert [row["content"] for row in shell.rows("inbox", "--read")] == [{"n": 1}, {"text": "hi"}]
    assert shell.rows("inbox") == []
    assert {row["status"] for row in shell.rows("inbox", "--status", "all")} == {"delivered"}
    assert shell.json("route", "show", sent["id"])["message_id"] == sent["id"]
    explained = shell.json(
        "route", "explain", "--requires", f"read-{shell.mark}", "--agent", shell.agent("x")
    )
    assert explained["to_agent_id"] == sent["to_agent_id"]
    assert name in shell("route", "explain", "--requires", f"read-{shell.mark}", "--agent", f"x-{shell.mark}")


def test_presence_pings_and_contacts(shell: Shell) -> None:
    one, other = shell.agent("one"), shell.agent("other")
    shell("presence", "--say", "at lunch", "--accepts-work-orders", "no", "--agent", other)
    assert shell.json("presence", other)["status_message"] == "at lunch"
    assert shell("ping", other, "hello", "--agent", one) == (
        f"{other} is online, says 'at lunch'; the ping lies in its inbox\n"
    )
    assert shell.json("contacts", "request", other, "may I?", "--agent", one)["contact_status"] == "pending"
    accepted = shell.json("contacts", "accept", one, "--rate-per-minute", "5", "--agent", other)
    assert (accepted["status"], accepted["rate_per_minute"]) == ("accepted", 5)
    assert [row["peer"]["name"] for row in shell.rows("contacts", "list", "--agent", one)] == [other]
    assert shell.json("contacts", "end", other, "--agent", one)["success"] is True


def test_a_work_order_from_asking_to_delivery(shell: Shell) -> None:
    boss, hand = shell.agent("boss"), shell.agent("hand")
    made = shell.json(
        *("work-orders", "create", "paint", "--to", hand, "--budget-usd", "15000.10"),
        *("--deadline-at", "+2d", "--requirements", '{"colour": "red"}', "--agent", boss),
    )
    order_id = made["work_order_id"]
    accepted = shell.json("work-orders", "accept", order_id, "--agent", hand)
    lease = accepted["lease"]
    shell("work-orders", "progress", order_id, "--lease", lease, "--percent", "50", "--agent", hand)
    shell("work-orders", "complete", order_id, "--lease", lease, "--result", '{"ok": 1}', "--agent", hand)
    shown = shell("work-orders", "show", order_id, "--agent", boss)
    assert re.search(r"status +completed", shown)
    assert re.search(r"budget_usd +15000\.1", shown)
    assert re.search(rf"complete +{hand}", shown)
    assert [
        row["work_order_id"]
        for row in shell.rows("work-orders", "list", "--role", "requester", "--agent", boss)
    ] == [order_id]
    assert "illegal_transition" in shell("work-orders", "cancel", order_id, "--agent", boss, code=1)
    second = shell.json("work-orders", "create", "wash", "--to", hand, "--agent", boss)["work_order_id"]
    assert (
        shell.json("work-orders", "reject", second, "--reason", "no", "--agent", hand)["status"] == "rejected"
    )


def test_dead_letters_and_statistics(shell: Shell, calm_broker: WholeBroker) -> None:
    name = shell.agent("dies", "--endpoint", "http://127.0.0.1:1099/")
    sent = shell.json("send", "{}", "--to", name, "--wait", "processed", "--timeout-ms", "30000")
    assert sent["status"] == "failed"
    assert [row["id"] for row in shell.rows("dead-letters", "list", "--to", name)] == [sent["id"]]
    assert shell("dead-letters", "replay", sent["id"]) == "1 replayed, 0 skipped\n"
    assert shell("dead-letters", "replay", "--to", name, "--type", "nothing") == "0 replayed, 0 skipped\n"
    assert "say which" in shell("dead-letters", "replay", code=2)
    assert shell.json("stats", name)["agent_id"] == sent["to_agent_id"]
    assert "agents online" in shell("stats")


def test_a_replay_in_bulk_says_call_by_call_how_far_it_is(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    name = shell.agent("dies-twice", "--endpoint", "http://127.0.0.1:1099/")
    for _ in range(2):
        sent = shell.json("send", "{}", "--to", name, "--wait", "processed", "--timeout-ms", "30000")
        assert sent["status"] == "failed"
    capsys.readouterr()
    assert main(("dead-letters", "replay", "--to", name, "--batch", "1")) == 0
    said = capsys.readouterr()
    assert said.err == "1 replayed, 0 skipped of 2\n"  # the last call says it on stdout
    assert said.out == "2 replayed, 0 skipped\n"


def test_exit_codes_and_sentences(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell("send", "{}", "--to", "nobody-at-all", code=1).endswith("(unknown_recipient)\n")
    assert "--to or --requires" in shell("send", "{}", code=2)
    assert "not JSON" in shell("send", "{", "--to", "x", code=2)
    assert "must be a JSON object" in shell("send", "[]", "--to", "x", code=2)
    assert "cannot be reached" in shell("agents", "list", "--url", "http://127.0.0.1:9", "--key", "k", code=3)
    assert "(unauthenticated)" in shell("agents", "list", "--key", "wrong", code=1)
    with pytest.raises(SystemExit) as ended:
        main(["work-orders", "create", "x", "--deadline-at", "tomorrow"])
    assert ended.value.code == 2
    assert "neither a time" in capsys.readouterr().err


def test_without_a_key_it_says_where_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AGENT_API_KEY", raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert main(["agents", "list"]) == 2
    assert "--key" in capsys.readouterr().err


def a_process(broker: WholeBroker, *words: str, **more: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-m", "broker.cli", *words]
    env = environment(DATA_DIR=str(broker.data_dir))
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, **more)


def test_an_inbox_is_followed_until_ctrl_c(shell: Shell, calm_broker: WholeBroker) -> None:
    name = shell.agent("followed")
    shell("send", '{"n": 1}', "--to", name)
    with a_process(
        calm_broker, "inbox", "--follow", "--json", "--agent", name, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["content"] == {"n": 1}
        shell("send", '{"n": 2}', "--to", name)
        assert json.loads(process.stdout.readline())["content"] == {"n": 2}
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b""


def test_a_reader_that_stops_reading_ends_a_command_quietly(shell: Shell, calm_broker: WholeBroker) -> None:
    shell.agent("unread")
    reading, writing = os.pipe()
    os.close(reading)
    with a_process(calm_broker, "agents", "list", "--json", stdout=writing) as process:
        os.close(writing)
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(20) == 0


TEN_LINES = """
from broker.client import Agent

agent = Agent({name!r}, url={url!r}, key={key!r}, transport={transport!r})

@agent.on("task")
async def summarize(message):
    return {{"summary": message.content["text"][:3]}}

agent.run()
"""


@pytest.mark.parametrize("transport", ["websocket", "poll"])
def test_ten_lines_are_an_agent_that_sigterm_stops(
    shell: Shell, calm_broker: WholeBroker, transport: str
) -> None:
    name = f"ten-{shell.mark}"
    key = shell.json("agents", "register", name)["api_key"]
    program = TEN_LINES.format(name=name, url=calm_broker.running.api_url, key=key, transport=transport)
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program], env=environment(), stderr=subprocess.PIPE
    ) as process:
        sent = shell.json(
            *("send", '{"text": "hello"}', "--type", "task", "--to", name),
            *("--wait", "processed", "--timeout-ms", "30000"),
        )
        assert sent["result"] == {"summary": "hel"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_what_is_switched_off_is_listed_and_switched_on_again(shell: Shell) -> None:
    name = shell.agent("noisy")
    other = shell.agent("other")
    switch = shell.json("kill-switches", "set", name, "--peer", other, "--reason", "quarrel")
    assert (switch["kind"], switch["reason"]) == ("pair", "quarrel")
    assert switch["id"] in [row["id"] for row in shell.rows("kill-switches", "list")]
    assert "switched on again" in shell("kill-switches", "remove", switch["id"])
    assert "not_found" in shell("kill-switches", "remove", switch["id"], code=1)
    assert "say what" in shell("kill-switches", "set", "--peer", name, code=2)
    shell.rows("trips", "list")
    assert "not_found" in shell("trips", "reset", str(uuid4()), code=1)


def test_an_agent_that_waits_for_its_broker_can_be_stopped() -> None:
    program = TEN_LINES.format(name="early", url="http://127.0.0.1:9", key="k", transport="websocket")
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program], env=environment(), stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert b"cannot be reached" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
