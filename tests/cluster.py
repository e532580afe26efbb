"""A Valkey Cluster of three nodes on this machine, for tests and benchmarks.

Its slots are assigned in equal ranges, as `valkey-cli --cluster create` does; a given number of shards can be
spread evenly. Slots can be moved while it is used, key by key (as any cluster can) or at once (as Valkey 9
can), and nodes killed and started again.
"""

import os
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from broker.servers.process import choose_port, write_private
from broker.servers.valkey import EmbeddedValkey
from broker.streams.slots import SLOTS, Address, SlotMap, even_out, parse_slots, slot_of_tag

ON_CLUSTER = os.environ.get("TEST_REDIS") == "cluster"
"""`make test-cluster`: what runs on any Redis runs on a cluster of three nodes instead."""
one_server = pytest.mark.skipif(ON_CLUSTER, reason="about one server: its sockets, its memory, its databases")

NODES = 3
PASSWORD = "a-cluster-for-tests"
PATIENCE_S = 30.0
MIGRATE_KEYS = 100
LINES = (
    "cluster-enabled yes",
    "cluster-config-file nodes.conf",
    # A node that was killed is missed soon, so that tests need not wait; a busy machine is no dead node.
    "cluster-node-timeout 5000",
    # A node that is away takes only its own slots with it.
    "cluster-require-full-coverage no",
    f"masterauth {PASSWORD}",
)


class Cluster:
    """Three primaries without replicas, under `home`."""

    def __init__(self, home: Path, *, maxmemory_bytes: int = 512 * 1024**2, nodes: int = NODES) -> None:
        self.servers = []
        for number in range(nodes):
            place = home / f"node-{number}"
            place.mkdir(mode=0o700, parents=True)
            write_private(place / "password", PASSWORD)
            lines = (*LINES, f"cluster-port {choose_port(0)}")
            self.servers.append(EmbeddedValkey(place, maxmemory_bytes=maxmemory_bytes, lines=lines))

    @property
    def url(self) -> str:
        """The address of the first node: that it is a cluster, it says itself."""
        return self.servers[0].url

    @property
    def every_url(self) -> str:
        """The addresses of all nodes in one URL."""
        hosts = ",".join(f"127.0.0.1:{self.port(number)}" for number in range(len(self.servers)))
        return f"redis://:{PASSWORD}@{hosts}/0"

    def port(self, number: int) -> int:
        return int(self.servers[number].url.rpartition(":")[2].partition("/")[0])

    def start(self) -> None:
        """Start the nodes, let them meet and share the slots; return when every slot is served."""
        for server in self.servers:
            server.start()
        count = len(self.servers)
        for number in range(count):
            first, last = number * SLOTS // count, (number + 1) * SLOTS // count - 1
            self.ask(number, "CLUSTER", "ADDSLOTSRANGE", first, last)
            # Each an epoch of its own from the start: no election is needed to tell who is newer.
            self.ask(number, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number in range(1, count):
            bus = self.ask(number, "CONFIG", "GET", "cluster-port")
            self.ask(0, "CLUSTER", "MEET", "127.0.0.1", self.port(number), int(_value(bus)))
        self.until_whole()

    def until_whole(self) -> None:
        """Wait until every node knows who serves each slot, and reaches all others."""
        _until(lambda: all(self._is_whole(number) for number in range(len(self.servers))), "a whole cluster")

    def mend(self) -> None:
        """Start the nodes that do not run, and wait until all is well."""
        for server in self.servers:
            if server.exit_code() is not None:
                server.start()
        self.until_whole()

    def kill(self, number: int) -> None:
        """End a node by kill -9."""
        os.kill(self.servers[number].pid, signal.SIGKILL)
        _until(lambda: self.servers[number].exit_code() is not None, f"node {number} killed")

    def restart(self, number: int) -> None:
        """Start a node again that was killed."""
        self.servers[number].start()
        self.until_whole()

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def ask(self, number: int, *command: Any) -> Any:
        """Send one command to one node."""
        with redis.Redis.from_url(self.servers[number].url) as client:
            return client.execute_command(*command)

    def slots(self) -> SlotMap:
        """Who serves what."""
        return self.slots_by(0)

    def slots_by(self, number: int) -> SlotMap:
        """Who serves what, as one node has it."""
        with redis.Redis.from_url(self.servers[number].url) as client:
            client.set_response_callback("CLUSTER SLOTS", lambda reply, **_: reply)
            reply = client.execute_command("CLUSTER SLOTS")
        return parse_slots(reply, asked=Address("127.0.0.1", self.port(number)))

    def node_of(self, shard: int) -> int:
        """Return the number of the node that serves a shard."""
        owner = self.slots().owner(slot_of_tag(b"%d" % shard))
        return [self.port(number) for number in range(len(self.servers))].index(owner.port)

    def spread(self, shards: int) -> None:
        """Move slots until the nodes serve equal numbers of shards."""
        for move in even_out(self.slots(), shards):
            ports = [self.port(number) for number in range(len(self.servers))]
            self.migrate(move.slot, ports.index(move.target.port))

    # --- moving a slot ------------------------------------------------------------------------------------

    def migrate(self, slot: int, target: int) -> None:
        """Move a slot with all that is in it at once, as Valkey 9 can."""
        source = self._owner(slot)
        if source == target:
            return
        target_id = self._id(target)
        self.ask(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target_id)
        _until(lambda: self._owner(slot) == target and self._agree_on(slot, target), f"slot {slot} moved")

    def migrate_by_key(self, slot: int, target: int, *, between: Callable[[], None] = lambda: None) -> None:
        """Move a slot key by key, as any Redis Cluster can; commands on several keys are refused meanwhile.
        `between`: called while half of the slot is here and half there."""
        source = self._owner(slot)
        ids = {number: self._id(number) for number in (source, target)}
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        called = False
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1 if not called else MIGRATE_KEYS):
            self.ask(
                *(source, "MIGRATE", "127.0.0.1", self.port(target), "", 0, 5_000),
                *("AUTH", PASSWORD, "KEYS", *keys),
            )
            if not called:
                between()
                called = True
        for number in (target, source, *range(len(self.servers))):
            self.ask(number, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        _until(lambda: self._agree_on(slot, target), f"slot {slot} moved")

    def _owner(self, slot: int) -> int:
        owner = self.slots().owner(slot)
        return [self.port(number) for number in range(len(self.servers))].index(owner.port)

    def _agree_on(self, slot: int, target: int) -> bool:
        """Whether every node says the same; asked by a key nobody has."""
        return all(self._says(number, slot) == self.port(target) for number in range(len(self.servers)))

    def _says(self, number: int, slot: int) -> int | None:
        owner = self.slots_by(number).owner(slot)
        return None if owner is None else owner.port

    def _id(self, number: int) -> str:
        return _text(self.ask(number, "CLUSTER", "MYID"))

    def _is_whole(self, number: int) -> bool:
        with redis.Redis.from_url(self.servers[number].url) as client:
            info = client.execute_command("CLUSTER INFO")
        state = info["cluster_state"] if isinstance(info, dict) else _text(info)
        slots = self.slots_by(number)
        known = {self.port(n) for n in range(len(self.servers))}
        return "ok" in state and slots.is_whole and {node.port for node in slots.nodes} == known


@cache
def is_cluster(url: str) -> bool:
    """Whether a cluster is behind a URL."""
    with redis.Redis.from_url(url) as client:
        return str(client.info("cluster").get("cluster_enabled")) == "1"


def client_of(url: str) -> Any:
    """Return a client of another make, for a single server or a cluster alike."""
    return redis.RedisCluster.from_url(url) if is_cluster(url) else redis.Redis.from_url(url)


def close(client: Any) -> None:
    """Close a client, and what it keeps open for the next one."""
    if isinstance(client, redis.RedisCluster):
        for node in client.get_nodes():
            if node.redis_connection is not None:
                close(node.redis_connection)
    client.close()
    if isinstance(client, redis.Redis):
        client.connection_pool.disconnect()


def servers_of(client: Any) -> list[Any]:
    """Return a client for each server behind one."""
    if isinstance(client, redis.RedisCluster):
        return [client.get_redis_connection(node) for node in client.get_nodes()]
    return [client]


def keys_of(client: Any, pattern: str) -> list[bytes]:
    """Return the keys of a pattern, at every server: by itself a client of a cluster asks one."""
    return sorted(key for server in servers_of(client) for key in server.keys(pattern))


def async_client_of(url: str) -> Any:
    """Return an asynchronous client of another make, for a single server or a cluster alike."""
    kind = redis.asyncio.RedisCluster if is_cluster(url) else redis.asyncio.Redis
    return kind.from_url(url)


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _value(reply: Any) -> Any:
    """Return the value of a CONFIG GET, however the client shows it."""
    return next(iter(reply.values())) if isinstance(reply, dict) else reply[1]
