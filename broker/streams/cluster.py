"""A Redis Cluster: finding its nodes, and giving each command to the node that serves its key.

Two ways to use one. Who owns a shard wants a connection to the one node that serves it, because what it keeps
in memory is right only while replies come in order and a failure is never passed over: `enter` finds that
node, and any redirection is a failure like any other (the shard begins anew, and asks again who serves it).
Who works on many shards uses a `ClusterConnection`: it follows redirections, and a node that fails takes only
the commands with it that were on their way to it.

Invariant: a command is repeated only where Redis said that it was not done (MOVED, ASK). One that was under
way when its connection failed has an unknown outcome, which is its caller's affair.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from broker.streams.calls import Argument, Connection, OnReply, Reply
from broker.streams.keys import DEPLOYMENT
from broker.streams.node import NodeConnection, address_of, open_node, options_of
from broker.streams.replies import Redirected
from broker.streams.slots import Address, SlotMap, key_of, parse_slots, slot_of
from schema.errors import BrokerError, StreamsUnavailable
from schema.limits import CLUSTER_REDIRECTS_MAX

REREAD_S: Final = 0.1
"""Between two looks at the map, so that a failing cluster is not flooded with questions."""

_maps: dict[str, SlotMap] = {}
"""The last map of each cluster this process has seen, by URL. Only a list of doors to knock at: the node that
REDIS_URL names may be the one that is down. Every connection that is opened reads the map anew."""


def doors(url: str, key: Argument | None = None) -> Iterator[tuple[str, Address | None]]:
    """Yield where to knock, the likeliest first: the node that served the key last, those the URL names (one
    `host:port` or several with commas), the others known."""
    known = _maps.get(url)
    likely = known.owner(slot_of(key)) if known is not None and key is not None else None
    named = _named(url)
    if likely is not None:
        yield named[0], likely
    for one in named:
        yield one, None
    for address in known.nodes if known is not None else ():
        if address != likely:
            yield named[0], address


async def enter(url: str, *, name: str, key: Argument | None = None) -> tuple[NodeConnection, SlotMap | None]:
    """Open a connection to whoever answers first; return it with the map of its cluster (None: it is a single
    server). With a key, to the node that serves it.

    Raises: StreamsUnavailable.
    """
    failure = StreamsUnavailable("no node of the cluster knows who serves the key")
    for door, address in doors(url, key):
        try:
            node = await open_node(door, name=name, at=address)
        except StreamsUnavailable as error:
            failure = error
            continue
        if not node.is_clustered:
            if address is None:
                return node, None
            await node.close()  # Something else listens by now where a node of the cluster was.
            continue
        asked = address or address_of(options_of(door))
        try:
            slots = parse_slots(await node.send("CLUSTER", "SLOTS"), asked=asked)
        except StreamsUnavailable as error:
            failure = error
            await node.close()
            continue
        except BaseException:
            await node.close()
            raise
        _maps[url] = slots
        if key is None:
            return node, slots
        owner = slots.owner(slot_of(key))
        if owner == asked:
            return node, slots
        await node.close()
        if owner is not None:
            return await open_node(_named(url)[0], name=name, at=owner), slots
    raise failure


class ClusterConnection(Connection):
    """A way to all nodes of a cluster, open until it is closed. Commands for one node keep their order as
    long as no slot moves; between nodes there is none."""

    def __init__(self, url: str, *, name: str, slots: SlotMap) -> None:
        super().__init__()
        self._url = url
        self._name = name
        self._slots = slots
        self._nodes: dict[Address, _Node] = {}
        self._rereading: asyncio.Task[None] | None = None
        self._is_closed = False

    def call(self, arguments: Sequence[Argument], on_reply: OnReply) -> None:
        """Send a command to the node that serves its key; `on_reply` gets the reply or the BrokerError."""
        # Time is asked of one node by everybody, because processes compare what they were told.
        key = key_of(arguments)
        self._send(_Errand(arguments, slot_of(DEPLOYMENT if key is None else key), on_reply))

    @property
    def is_open(self) -> bool:
        return not self._is_closed

    async def close(self) -> None:
        """Close; what is still under way gets StreamsUnavailable."""
        self._is_closed = True
        if self._rereading is not None:
            self._rereading.cancel()
        for node in self._nodes.values():
            await node.close()

    def _send(self, errand: "_Errand") -> None:
        address = self._slots.owner(errand.slot)
        if self._is_closed or address is None:
            reason = "is closed" if self._is_closed else f"has no node for slot {errand.slot}"
            self._loop.call_soon(errand.on_reply, StreamsUnavailable(f"the way to the cluster {reason}"))
            self._suspect()
            return
        self._node(address).call(errand.command, lambda reply: self._answered(errand, reply))

    @property
    def slots(self) -> SlotMap:
        """Who serves what, as far as is known."""
        return self._slots

    def node(self, address: Address) -> Connection:
        """Return the way to one node, whatever it serves. It is closed with this connection."""
        return self._node(address)

    def _node(self, address: Address) -> "_Node":
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = _Node(self._url, name=self._name, address=address)
        return node

    def _answered(self, errand: "_Errand", reply: Reply) -> None:
        if isinstance(reply, StreamsUnavailable):
            self._suspect()
        if not isinstance(reply, Redirected) or errand.redirects >= CLUSTER_REDIRECTS_MAX:
            errand.on_reply(reply)
            return
        errand.redirects += 1
        current = self._slots.owner(errand.slot)
        address = Address(reply.host or (current.host if current else ""), reply.port)
        if reply.is_asking:
            # Only this command, only this time: the slot is on its way, and its owner is still the same.
            node = self._node(address)
            node.call(("ASKING",), _ignore)
            node.call(errand.command, lambda answer: self._answered(errand, answer))
        else:
            self._slots.move(errand.slot, address)
            self._send(errand)

    def _suspect(self) -> None:
        """Read the map again, in the background; what failed has failed."""
        if not self._is_closed and (self._rereading is None or self._rereading.done()):
            self._rereading = self._loop.create_task(self._reread())

    async def _reread(self) -> None:
        await asyncio.sleep(REREAD_S)
        try:
            node, slots = await enter(self._url, name=self._name)
        except StreamsUnavailable:
            return  # The next command that fails asks again.
        await node.close()
        if slots is not None:
            self._slots = slots


class _Errand:
    """A command on its way, and how often it was sent elsewhere."""

    __slots__ = ("command", "on_reply", "redirects", "slot")

    def __init__(self, command: Sequence[Argument], slot: int, on_reply: OnReply) -> None:
        self.command = command
        self.slot = slot
        self.on_reply = on_reply
        self.redirects = 0


class _Node(Connection):
    """One node: its connection, opened on first use and again after a failure, and what waits meanwhile."""

    def __init__(self, url: str, *, name: str, address: Address) -> None:
        super().__init__()
        self._url = _named(url)[0]
        self._name = name
        self._address = address
        self._connection: NodeConnection | None = None
        self._waiting: list[tuple[Sequence[Argument], OnReply]] = []
        self._opening: asyncio.Task[None] | None = None

    def call(self, arguments: Sequence[Argument], on_reply: OnReply) -> None:
        """Send a command, as soon as there is a connection."""
        if self._connection is not None and self._connection.is_open:
            self._connection.call(arguments, on_reply)
            return
        self._waiting.append((arguments, on_reply))
        if self._opening is None:
            self._opening = self._loop.create_task(self._open())

    @property
    def is_open(self) -> bool:
        return self._connection is not None and self._connection.is_open

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            await self._connection.close()
        self._fail(StreamsUnavailable("connection to Redis closed"))

    async def _open(self) -> None:
        try:
            self._connection = await open_node(self._url, name=self._name, at=self._address)
        except BrokerError as error:
            self._fail(error)
        else:
            waiting, self._waiting = self._waiting, []
            for command, on_reply in waiting:
                self._connection.call(command, on_reply)
        finally:
            self._opening = None

    def _fail(self, error: BrokerError) -> None:
        waiting, self._waiting = self._waiting, []
        for _, on_reply in waiting:
            on_reply(error)


def node_urls(url: str) -> list[str]:
    """Return a URL for each node to knock at, for clients that take one: they are other people's."""
    return [one if address is None else _at(one, address) for one, address in doors(url)]


def _named(url: str) -> list[str]:
    """Return a URL for each node a URL names."""
    parts = urlsplit(url)
    if "," not in parts.netloc:
        return [url]
    login, at, hosts = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=f"{login}{at}{host}")) for host in hosts.split(",")]


def _at(url: str, address: Address) -> str:
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    host = f"[{address.host}]" if ":" in address.host else address.host
    scheme = "rediss" if parts.scheme == "rediss" else "redis"
    path = parts.path if parts.scheme != "unix" else ""
    return urlunsplit(parts._replace(scheme=scheme, netloc=f"{login}{at}{host}:{address.port}", path=path))


def _ignore(_: Any) -> None:  # Any: a reply nobody needs
    return
