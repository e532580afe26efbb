"""Names of everything the broker keeps in Redis.

Every key of a shard carries the hash tag `{shard}`, so one shard is one cluster slot and a script over the
keys of one shard is atomic on a single server and on a cluster alike.
"""

from typing import Final

from schema.message import LANES, Lane

REGISTRY: Final = "ab:registry"
"""Stream of agents that changed (field `id`); capped, only a hint: the truth is in Postgres."""
DEPLOYMENT: Final = "ab:deployment"
"""Hash of what is fixed when a deployment is created: `shards`."""
NOTIFY_ALL: Final = "ab:notify:all"
ARRIVED: Final = "ab:arrived"
"""Channel: ids of agents without an endpoint that something was just routed to."""
RECORDED: Final = "ab:recorded"
"""Channel: ids of agents for whom a message was just recorded that is still pending."""
PRESENCE_CHANGES: Final = "ab:presence"
"""Channel: agents that came online, went away or are gone."""
SESSIONS: Final = "ab:sessions"
"""Channel: id of an agent that has just opened a live session elsewhere than it had one."""
BARRIERS: Final = "ab:barriers"
"""Hash of what routers have found to be stopped: full inboxes, pairs of agents that loop; and a version."""
NATIVE_GROUP: Final = "agent"
"""Consumer group of an agent that reads its mailboxes natively."""
CONTACTS_CHANGED: Final = "ab:contacts"
"""Channel: two agents whose contact changed, as a JSON array: whoever has it cached looks again."""
REVOKED: Final = "ab:revoked"
"""Channel: ids of API keys that were changed: whoever has them cached looks again."""


def notify(gateway_id: str) -> str:
    """Return the channel on which one gateway hears of the messages it waits for."""
    return f"ab:notify:{gateway_id}"


def one_way(sender: str, recipient: str) -> str:
    """Return the moments of the last messages of one direction between two agents that may be looping."""
    return f"ab:way:{sender}:{recipient}"


def root_count(root_id: str) -> str:
    """Return how many messages routers have told each other of that go back to one root."""
    return f"ab:root:{root_id}"


def processes(trade: str) -> str:
    """Return the sorted set of live processes of a trade (member: process, score: when it counts as gone)."""
    return f"ab:processes:{trade}"


class Keys:
    """The keys of one shard, made once.

    `ingress`: the lanes the broker itself publishes into, and routers read. `published`: the lanes of native
    publishers, which are the same here.
    """

    __slots__ = (
        "_prefix",
        "active",
        "chosen",
        "deaths",
        "deliverer",
        "direct",
        "direct_to",
        "doorbell",
        "due",
        "expiry",
        "failing",
        "ingress",
        "later",
        "later_messages",
        "ledger",
        "parked",
        "presence",
        "published",
        "shard",
        "trials",
        "verdicts",
        "withdrawn",
    )

    def __init__(self, shard: int) -> None:
        prefix = f"ab:{{{shard}}}:"
        self._prefix = prefix
        self.shard = shard
        self.ingress = self.published = {lane: f"{prefix}ingress:{lane.value}" for lane in LANES}
        self.active = prefix + "active"
        self.doorbell = prefix + "doorbell"
        self.direct = prefix + "direct"
        self.direct_to = prefix + "direct_to"
        self.due = prefix + "due"
        self.expiry = prefix + "expiry"
        self.failing = prefix + "failing"
        self.verdicts = prefix + "verdicts"
        self.deliverer = prefix + "deliverer"
        self.deaths = prefix + "deaths"
        self.trials = prefix + "trials"
        self.later = prefix + "later"
        self.later_messages = prefix + "later:messages"
        self.chosen = prefix + "chosen"
        self.withdrawn = prefix + "withdrawals"
        self.parked = prefix + "parked"
        self.ledger = prefix + "ledger"
        self.presence = prefix + "presence"

    @property
    def signed(self) -> str:
        """Return the hash of the last entries in native publishers' lanes before signatures were required; it
        is there while they are."""
        return f"{self._prefix}signed"

    def mailbox(self, agent_id: str, lane: Lane) -> str:
        """Return the stream of what is routed to an agent in one lane and not finished."""
        return f"{self._prefix}inbox:{agent_id}:{lane._value_}"

    def session(self, agent_id: str) -> str:
        """Return the lease of the one live session (SSE or WebSocket) an agent has."""
        return f"{self._prefix}session:{agent_id}"

    def parked_stream(self, signature: str) -> str:
        """Return the stream of messages that wait for a capable agent; the signature includes the lane."""
        return f"{self._prefix}parked:{signature}"

    def seen(self, window: int) -> str:
        """Return the deduplication set of one window (its number counts windows since the epoch)."""
        return f"{self._prefix}seen:{window}"

    def allowance(self, purpose: str, recipient: str, sender: str) -> str:
        """Return the token bucket of what a recipient takes of a sender."""
        return f"{self._prefix}allowance:{purpose}:{recipient}:{sender}"

    def survived(self, life: str) -> str:
        """Return what says that the end of one delivery owner was taken back already."""
        return f"{self._prefix}survived:{life}"

    def owner(self, trade: str) -> str:
        """Return the lease of the process that owns this shard for a trade."""
        return f"{self._prefix}owner:{trade}"

    def fence(self, trade: str) -> str:
        """Return the counter the fencing tokens of a trade are drawn from."""
        return f"{self._prefix}fence:{trade}"


class GatedKeys(Keys):
    """The keys of a shard whose native publishers must sign. The broker's own messages, and all that scripts
    move back, go through lanes of their own, into which the gate lets what is signed: who may only publish
    natively cannot write there."""

    __slots__ = ()

    def __init__(self, shard: int) -> None:
        super().__init__(shard)
        self.ingress = {lane: f"{self._prefix}admitted:{lane.value}" for lane in LANES}


def keys_where(*, signed: bool) -> type[Keys]:
    """Return how the keys of a deployment are made, that requires signatures or does not."""
    return GatedKeys if signed else Keys


def taken_back(message_id: str, message_round: int) -> str:
    """Return the member of `withdrawals` that stands for one round of a message: a later one is not meant."""
    return f"{message_id}|{message_round}" if message_round else message_id


def mailbox_owner(mailbox: str) -> tuple[str, Lane]:
    """Return agent id and lane of a mailbox key."""
    _, _, agent_id, lane = mailbox.rsplit(":", 3)
    return agent_id, Lane(lane)
