"""The agent of the README and the command beneath it, run as they stand there."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from whole_broker import WholeBroker, until

from broker.client import Client

README = (Path(__file__).parents[2] / "README.md").read_text()
PROGRAM = re.compile(r"^## An agent in ten lines\n+```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^agent-broker (send .*)$", re.MULTILINE)


def test_the_agent_of_the_readme_answers_the_command_of_the_readme(calm_broker: WholeBroker) -> None:
    running = calm_broker.running
    environment = os.environ | {"AGENT_BROKER_URL": running.api_url, "AGENT_API_KEY": running.api_key}
    (program,), (command,) = PROGRAM.findall(README), COMMAND.findall(README)
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as agent:
        try:
            with Client(running.api_url, running.api_key) as client:
                until(lambda: _is_online(client), what="the agent of the README")
            words = [sys.executable, "-m", "broker.cli", *shlex.split(command)]
            said = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
            assert '{"summary":"A long story ..."}' in said.stdout, said
        finally:
            agent.send_signal(signal.SIGTERM)
    assert agent.returncode == 0


def _is_online(client: Client) -> bool:
    return "summarizer" in [agent.name for agent in client.agents(online=True)]
