"""Hostile endpoints, all at once, against a real worker process: each ends as it should, holds its slot no
longer than the deadline, costs no memory, and nobody else notices."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from authority import Authority
from hostile_receivers import Hostile, hostile
from role_processes import RoleProcesses
from scene import Scene, a_scene, eventually

from schema.delivery import AttemptView

pytestmark = pytest.mark.e2e

TOTAL_MS, CONNECT_MS, TLS_MS, FIRST_BYTE_MS = 6_000, 3_000, 4_000, 5_000
"""Long enough for what ends by itself, on a machine that stands still for a few seconds."""
LATE_MS = 10_000
"""How much later than its deadline an attempt may end: a second is meant, a busy machine is late itself."""
MEMORY_MIB_MAX = 50
BYSTANDERS = 200


class End(NamedTuple):
    """How a message to a hostile endpoint ends. `attempts`: status, code, and how its error begins."""

    status: str
    reason: str | None
    attempts: list[tuple[str, int | None, str | None]]


def fails(error: str, *, status: str = "failed", code: int | None = None) -> End:
    """It is tried twice, as the message asks, with the same outcome."""
    return End("failed", "exhausted", [(status, code, error or None)] * 2)


def delivered(code: int = 200) -> End:
    return End("delivered", None, [("success", code, None)])


ENDS = {
    "never accepts": fails("timeout: no connection", status="timeout"),
    "accepts and is silent": fails("timeout: no response", status="timeout"),
    # Whichever of its two deadlines comes first on a busy machine.
    "drips headers": fails("timeout: no ", status="timeout"),
    "drips the body": fails("timeout: the response did not end", status="timeout"),
    "endless chunks": delivered(),
    "a gigabyte": delivered(),
    "a compressed bomb": delivered(),
    "100,000 headers": fails("too_large: the response has more than 32768 bytes of headers"),
    "resets in the body": fails("reset: connection closed in the middle"),
    "redirects": fails("", code=307),
    "junk Retry-After": fails("", code=503),
    "gone": End("failed", "gone", [("failed", 410, None)]),
    "expired": fails("tls: the certificate is not trusted: certificate has expired"),
    "self-signed": fails("tls: the certificate is not trusted: self"),
    "wrong name": fails("tls: the certificate is not trusted: IP address mismatch"),
    "a flood of 1xx": fails("protocol: more than 16 interim responses"),
    "204 with a body": delivered(204),
    "good certificate": delivered(),
}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def them(authority: Authority) -> AsyncIterator[Hostile]:
    certificates = {
        "expired": authority.server("127.0.0.1", days=(-2, -1)),
        "self-signed": authority.server("127.0.0.1", self_signed=True),
        "wrong name": authority.server("127.0.0.2", "other.example"),
        "good certificate": authority.server("127.0.0.1"),
    }
    async with hostile(certificates) as served:
        yield served


@pytest.fixture
def roles(
    tmp_path: Path, authority: Authority, streams_url: str, database_url: str
) -> Iterator[RoleProcesses]:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.pem)
    roles = RoleProcesses(
        tmp_path,
        streams_url,
        database_url,
        SSL_CERT_FILE=str(trusted),
        ATTEMPT_TOTAL_MS=str(TOTAL_MS),
        ATTEMPT_CONNECT_MS=str(CONNECT_MS),
        ATTEMPT_TLS_MS=str(TLS_MS),
        ATTEMPT_FIRST_BYTE_MS=str(FIRST_BYTE_MS),
    )
    for role in ("gateway", "worker", "recorder", "keeper"):
        roles.start(role)
    yield roles
    roles.stop()


@pytest.fixture
async def scene(roles: RoleProcesses) -> AsyncIterator[Scene]:
    async with a_scene(roles.place) as scene:
        await eventually(scene.client.is_ready, what="the gateway")
        yield scene


def forget_peak(pid: int) -> None:
    """Let the highest memory so far be what it is now: what counts is how much higher it gets."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory_mib(pid: int, line: str) -> float:
    for found in Path(f"/proc/{pid}/status").read_text().splitlines():
        if found.startswith(line):
            return int(found.split()[1]) / 1024
    raise AssertionError(line)


async def test_each_ends_as_it_should_in_time_and_none_costs_memory_or_holds_up_others(
    roles: RoleProcesses, scene: Scene, them: Hostile
) -> None:
    assert set(ENDS) == set(them.urls)
    agents = {
        name: await scene.client.register(scene.named(f"agent-{number}"), endpoint=url)
        for number, (name, url) in enumerate(them.urls.items())
    }
    good = await scene.agent("good")
    await scene.send(good.id, wait="delivered", timeout_ms=60_000)
    pid = roles.pid("worker")
    forget_peak(pid)
    before_mib = memory_mib(pid, "VmRSS")

    began = time.monotonic()
    metadata = {"max_retries": 1}
    sent = {name: await scene.send(agent.id, metadata=metadata) for name, agent in agents.items()}
    passing = [
        await scene.send(good.id, wait="delivered", timeout_ms=30_000) for _ in range(BYSTANDERS // 10)
    ]
    passing += await asyncio.gather(*(scene.send(good.id) for _ in range(BYSTANDERS)))
    await scene.drain()
    took_s = time.monotonic() - began

    assert memory_mib(pid, "VmHWM") - before_mib <= MEMORY_MIB_MAX
    assert set(passing) <= scene.ledger.received.keys()
    spent_s: list[float] = []
    for name, message_id in sent.items():
        message = await scene.client.message(message_id)
        attempts = await scene.client.attempts(message_id)
        assert (
            End(message.status, message.status_reason, [_told(name, one) for one in attempts]) == ENDS[name]
        ), name
        spent_s += [one.duration_ms / 1000 for one in attempts]
        assert all(one.duration_ms <= TOTAL_MS + LATE_MS for one in attempts), name
        assert all(len(one.response_body or "") <= 4 * 1024 for one in attempts), name
    held_s = {name: max(times) for name, times in them.held_s.items() if name in CLOSED_BY_US}
    assert held_s.keys() == CLOSED_BY_US
    assert max(held_s.values()) <= (TOTAL_MS + LATE_MS) / 1000, held_s
    assert took_s < sum(spent_s), "one after another, not side by side"
    assert them.strayed == 0, "a redirect was followed"
    assert {one["accept-encoding"] for asked in them.asked.values() for one in asked} == {"identity"}

    async def disabled() -> bool:
        return (await scene.client.agents.show(agents["gone"].id)).endpoint_status == "disabled"

    await eventually(disabled, what="the endpoint that is gone")


CLOSED_BY_US = {
    *("accepts and is silent", "drips headers", "drips the body", "endless chunks", "a gigabyte"),
    *("a compressed bomb", "100,000 headers", "a flood of 1xx", "204 with a body"),
}
"""Those whose connection ends because the broker has had enough."""


def _told(name: str, attempt: AttemptView) -> tuple[str, int | None, str | None]:
    """Return an attempt as the table has it: of its error as much as that says."""
    expected = ENDS[name].attempts[min(attempt.attempt, len(ENDS[name].attempts)) - 1][2]
    error = attempt.error
    if error is not None and expected is not None and error.startswith(expected):
        error = expected
    return attempt.status, attempt.response_code, error
