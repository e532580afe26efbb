"""The walk-through with curl: every command works, and no call of the contract is left out."""

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import httpx
import pytest
from whole_broker import WholeBroker

from broker.gateway.operations import OPERATIONS

SCRIPT = Path(__file__).parents[2] / "examples" / "walkthrough.sh"
COUNTED = re.compile(r"^agent_broker_http_requests_total\{(.*)\} (\S+)$", re.MULTILINE)
WELL = re.compile(r'status="[12]xx"')
PARTS_OF_A_PAGE = {"docsStyle", "docsScript"}
OPERATION = re.compile(r'operation="(\w+)"')


def served(broker: WholeBroker) -> Counter[str]:
    """Return how often each operation was answered well so far."""
    text = httpx.get(broker.running.metrics_url, timeout=20, trust_env=False).text
    counted: Counter[str] = Counter()
    for labels, number in COUNTED.findall(text):
        operation = OPERATION.search(labels)
        if operation is not None and WELL.search(labels):
            counted[operation[1]] += int(float(number))
    return counted


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl installed")
def test_every_call_of_the_contract_is_shown_and_works(calm_broker: WholeBroker) -> None:
    before = served(calm_broker)
    running = calm_broker.running
    walked = subprocess.run(
        [str(SCRIPT)],
        env={"PATH": os.environ["PATH"], "URL": running.api_url, "KEY": running.api_key},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert walked.returncode == 0, walked.stdout[-2_000:] + walked.stderr[-2_000:]
    called = served(calm_broker) - before
    assert {operation.name for operation in OPERATIONS} - called.keys() == PARTS_OF_A_PAGE
