"""What an agent got at its registration, kept in a file that only its user can read.

The broker shows key and signing secret once; an agent that registers itself must keep them, or it cannot come
back under its name.
"""

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from broker.client.http import AgentClient
from schema.agent import RegisteredAgent
from schema.errors import Rejected


class Credentials(Struct, kw_only=True, frozen=True):
    """Who an agent is, and how it proves it. `signing_secret`: what pushes to it are signed with."""

    agent_id: str
    name: str
    api_key: str
    signing_secret: str


async def register(url: str, operator_key: str, name: str, **profile: Any) -> Credentials:
    """Register an agent with an operator's key. `profile`: fields of RegisterRequest.

    Raises: NameTaken, AddressDenied, Rejected, Unavailable.
    """
    async with AgentClient(url, operator_key) as operator:
        return of(await operator.agents.register(name, **profile))


def of(agent: RegisteredAgent) -> Credentials:
    """Return what the reply to a registration says this once."""
    return Credentials(
        agent_id=agent.id, name=agent.name, api_key=agent.api_key, signing_secret=agent.signing_secret
    )


def load(path: Path) -> Credentials | None:
    """Return what a file holds, None where there is none. Raises: Rejected for a file of something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise Rejected(f"{path} holds no credentials: {error}") from error


def save(path: Path, credentials: Credentials) -> None:
    """Write a file only its user can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(credentials)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
