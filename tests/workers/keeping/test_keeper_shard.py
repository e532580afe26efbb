"""A shard's jobs end when they are told to, also in the middle of a failure."""

import asyncio
import time

import pytest
from cluster import client_of, close, servers_of
from keeper_rig import leased

from broker.store.pool import Pool
from broker.streams.connection import Connection
from workers.keeping.board import Board
from workers.keeping.heartbeats import Heartbeats
from workers.keeping.shard import House, KeptShard


async def test_a_shard_begins_again_after_every_failure(
    streams_url: str, connection: Connection, pool: Pool
) -> None:
    async with leased(connection, "keep") as [lease]:
        task = asyncio.create_task(KeptShard(lease, house_of(streams_url, pool)).run())
        for _ in range(3):
            cut = await until_connected(streams_url, "keeper-0")
            kill_connection(streams_url, "keeper-0")
            assert await until_connected(streams_url, "keeper-0", after=cut) > cut
        task.cancel()
        await asyncio.wait((task,), timeout=10)
        assert task.done()


async def test_a_bug_met_in_one_job_does_not_end_the_shard(
    streams_url: str, connection: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, met = asyncio.Event(), asyncio.Event()

    async def fail_once(_: Heartbeats) -> None:
        if not met.is_set():
            met.set()
            raise ZeroDivisionError
        began.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Heartbeats, "run", fail_once)
    async with leased(connection, "keep") as [lease], asyncio.timeout(20):
        task = asyncio.create_task(KeptShard(lease, house_of(streams_url, pool)).run())
        await began.wait()
        task.cancel()
        await asyncio.wait((task,), timeout=10)
        assert task.done()


def house_of(url: str, pool: Pool) -> House:
    return House(
        name="keeper",
        redis_url=url,
        pool=pool,
        now_ms=lambda: int(time.time() * 1000),
        board=Board(),
        online_ms=1_000,
        silent_after_ms=1_000,
        retention_days=30,
    )


async def until_connected(url: str, name: str, *, after: int = 0) -> int:
    """Wait for a connection of this name newer than another; return its number."""
    async with asyncio.timeout(20):
        while True:
            client = client_of(url)
            found = [int(one["id"]) for server in servers_of(client) for one in server.client_list()
                     if one["name"] == name and int(one["id"]) > after]  # fmt: skip
            close(client)
            if found:
                return max(found)
            await asyncio.sleep(0.02)


async def test_told_to_end_while_its_jobs_are_failing_a_shard_does_not_begin_again(
    streams_url: str, connection: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ending, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def end_slowly(_: Heartbeats) -> None:
        """As a statement does whose server is slow to cancel it."""
        began.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ending.set()
            await may_end.wait()

    monkeypatch.setattr(Heartbeats, "run", end_slowly)
    house = house_of(streams_url, pool)
    async with leased(connection, "keep") as [lease], asyncio.timeout(20):
        task = asyncio.create_task(KeptShard(lease, house).run())
        await began.wait()
        kill_connection(streams_url, "keeper-0")
        await ending.wait()

        task.cancel()
        await asyncio.sleep(0)
        may_end.set()

        done, _ = await asyncio.wait((task,), timeout=10)
        assert done == {task}


def kill_connection(url: str, name: str) -> None:
    """Cut the connection of this name, at whichever server it is."""
    client = client_of(url)
    for server in servers_of(client):
        for one in server.client_list():
            if one["name"] == name:
                server.client_kill_filter(_id=one["id"])
    close(client)
