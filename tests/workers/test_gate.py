"""Where native publishers must sign: what is not signed by who it says it is from goes to quarantine,
everything else arrives, and what the broker moves itself needs no signature."""

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cluster import one_server
from msgspec.structs import replace
from silent_postgres import SilentPostgres, silenceable
from test_choices_across_shards import in_shard
from worker_rig import Site, World, message, until

from broker.core import keys as api_keys
from broker.core.signing import Signer, publishing_key
from broker.gateway import keyring as keyring_module
from broker.gateway.keyring import Keyring
from broker.store import agents as stored_agents
from broker.store import keys as stored_keys
from broker.store import pool as pool_module
from broker.store.keys import StoredKey
from broker.store.pool import Pool, open_pool
from broker.streams.connection import open_connection
from broker.streams.ingress import Publisher
from broker.streams.keys import GatedKeys, Keys
from broker.streams.scripts import ADMIT
from broker.telemetry import metrics
from schema.agent import Agent
from schema.codec import encode
from schema.errors import StreamsFull
from schema.ids import new_id
from schema.ledger import Event, EventKind
from schema.limits import ENTRY_MESSAGES_MAX, PUBLISH_MESSAGES_PER_ENTRY_MAX
from schema.message import Envelope, Lane, Status
from workers import gate
from workers.gate import Inspector, Owners
from workers.keeping.schedule import Schedule

OURS, THEIRS = "o" * 32, "t" * 32
SENDS = ("messages:send",)
DELIVERED = [(Status.DELIVERED, None)]
LANE = Keys(0).ingress[Lane.NORMAL]


class Scene(World):
    """A world whose publishers must sign; its `publisher` is a gateway's."""

    def __init__(self, url: str, pool: Pool, *, shards: int = 1) -> None:
        keyring = Keyring(pool, operator_key="operator", pepper=b"")
        super().__init__(url, shards=shards, keys=GatedKeys)
        owners = Owners(keyring, now_ms=lambda: int(datetime.now(UTC).timestamp() * 1000))
        self.inspector = Inspector([OURS], owners, find_agent=self.live.directory.get)
        self.pool = pool
        self.opened = AsyncExitStack()

    async def __aexit__(self, *error: object) -> None:
        await self.opened.aclose()
        await super().__aexit__(*error)

    async def key_of(self, agent: Agent | None, *, scopes: tuple[str, ...] = SENDS, **more: Any) -> str:
        """Give an agent a key, in PostgreSQL; return its id."""
        minted = api_keys.mint(bytes.fromhex(new_id().replace("-", "")[-16:]), bytes(32))
        key = StoredKey(
            id=minted.id,
            agent_id=None if agent is None else agent.id,
            scopes=scopes,
            hash=b"",
            prefix=minted.prefix,
            created_ms=1,
            **more,
        )
        if agent is None:
            await stored_keys.insert(self.pool, key)
        else:
            await stored_agents.register(self.pool, replace(agent, created_ms=1, updated_ms=1), key)
        return key.id

    def native(self, key_id: str | None, *, secrets_key: str = OURS) -> Publisher:
        """Return the publisher in an agent's process."""
        signer = None if key_id is None else Signer(publishing_key([secrets_key], key_id))
        publisher = Publisher(self.url, shards=self.shards, signer=signer)
        self.opened.push_async_callback(publisher.close)
        return publisher

    def add(self, *messages: bytes, signed_by: str | None = None, **fields: bytes | str) -> str:
        """Write an entry by hand; return its id."""
        parts: list[bytes | str] = [part for one in messages for part in (b"m", one)]
        for name, value in fields.items():
            parts += (name, value)
        if signed_by is not None:
            parts += Signer(publishing_key([OURS], signed_by)).fields(messages)
        return str(self.raw.execute_command("XADD", LANE, "*", *parts).decode())

    async def guarded(self) -> Site:
        """Start a worker; return when what is published from now on must be signed."""
        site = await self.site()
        await until(lambda: all(self.raw.exists(keys.signed) for keys in self.keys))
        return site

    def quarantined(self) -> dict[str, Event]:
        return {one.id: one for one in self.events() if one.kind is EventKind.QUARANTINED}


@asynccontextmanager
async def scene_on(url: str, database_url: str, *, shards: int = 1) -> AsyncIterator[Scene]:
    pool = await open_pool(database_url, application_name="test")
    try:
        async with Scene(url, pool, shards=shards) as scene:
            yield scene
    finally:
        await pool.aclose()


@pytest.fixture
async def scene(streams_url: str, database_url: str) -> AsyncIterator[Scene]:
    async with scene_on(streams_url, database_url) as one:
        yield one


def _counted(reason: str) -> float:
    return metrics.TURNED_AWAY.child(reason=reason).value


async def test_only_what_is_signed_by_who_it_is_from_passes_and_the_rest_is_set_aside_with_the_reason(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver = await scene.receiver()
    to, own, other = scene.agent(receiver), scene.agent(name="own"), scene.agent(name="other")
    key = await scene.key_of(own)
    others = await scene.key_of(other)
    reads = await scene.key_of(scene.agent(), scopes=("messages:read",))
    revoked = await scene.key_of(scene.agent(), revoked_ms=1)
    expired = await scene.key_of(scene.agent(), expires_ms=1)

    def say(sender: str | None = own.id, **more: Any) -> bytes:
        return encode(message(to, from_agent_id=sender, content=b'{"secret":"xyzzy"}', **more))

    good = [message(to, from_agent_id=sender) for sender in (own.id, own.id.upper(), "own", None)]
    altered = say()
    signature = Signer(publishing_key([OURS], key)).fields([altered])[3]
    foreign = Signer(publishing_key([THEIRS], key)).fields([altered])[3]
    before = {reason: _counted(reason) for reason in metrics.SIGNATURE_REFUSALS}
    bad = {
        scene.add(say()): "unsigned",
        scene.add(say(), k=key): "unsigned",
        scene.add(say(), sig=signature): "unsigned",
        scene.add(say(), p="1"): "unsigned",
        scene.add(altered, k=key, sig="0" * 64): "bad_signature",
        scene.add(altered, k=key, sig=foreign): "bad_signature",
        scene.add(altered, k=others, sig=signature): "bad_signature",
        scene.add(altered, altered, k=key, sig=signature): "bad_signature",
        scene.add(altered.replace(b"xyzzy", b"yzzyx"), k=key, sig=signature): "bad_signature",
        scene.add(say(), k=b"\xff\xfe", sig=b"\xff"): "bad_signature",
        scene.add(say(), signed_by="00000000000000ff"): "key_ended",
        scene.add(say(), signed_by=revoked): "key_ended",
        scene.add(say(), signed_by=expired): "key_ended",
        scene.add(say(other.id), signed_by=key): "not_the_sender",
        scene.add(say("other"), signed_by=key): "not_the_sender",
        scene.add(say(new_id()), signed_by=key): "not_the_sender",
        scene.add(say(), say(other.id), signed_by=key): "not_the_sender",
        scene.add(say(None), signed_by=reads): "not_the_sender",
        scene.add(b"no message", signed_by=key): "malformed",
        scene.add(say(round=1), signed_by=key): "malformed",
        scene.add(say(tried=[]), signed_by=key): "malformed",
        scene.add(*[say()] * (ENTRY_MESSAGES_MAX + 1), signed_by=key): "malformed",
        scene.add(x="no message at all"): "malformed",
        scene.add(say(), **{f"f{number}": "x" for number in range(5_000)}): "malformed",
    }
    # As if nothing of this had been there before signatures were required.
    scene.raw.hset(scene.keys[0].signed, "normal", "0-0")
    await scene.native(key).publish_many(good)
    await scene.site()
    await scene.until_ended(one.id for one in good)
    await until(lambda: len(scene.quarantined()) == len(bad))
    kept = scene.quarantined()
    assert {entry: kept[entry].reason for entry in kept} == bad
    assert all(one.detail and one.stream == LANE for one in kept.values())
    assert sum(b64decode(one.raw or "") == altered for one in kept.values()) == 3
    assert receiver.times == {one.id: 1 for one in good}
    assert {one.message["from_agent_id"] for one in receiver.got} == {own.id}
    counted = {reason: _counted(reason) - number for reason, number in before.items()}
    assert counted == {reason: list(bad.values()).count(reason) for reason in counted}
    told = [line for line in capfd.readouterr().err.splitlines() if "gate.turned_away" in line]
    assert len(told) == len(bad)
    assert not any("xyzzy" in line or signature in line for line in told)
    await scene.until_clean()


async def test_a_batch_is_signed_once_an_entry_and_arrives_whole(any_streams_url, database_url):
    count = 3 * PUBLISH_MESSAGES_PER_ENTRY_MAX
    async with scene_on(any_streams_url, database_url, shards=2) as scene:
        receiver = await scene.receiver()
        to = [scene.agent(receiver, shard=shard) for shard in (0, 1)]
        own = scene.agent()
        publisher = scene.native(await scene.key_of(own))
        ids = [message(to[n % 2], from_agent_id=own.id) for n in range(count)]
        await publisher.publish_many(ids)
        entries = [
            fields for keys in scene.keys for _, fields in scene.raw.xrange(keys.published[Lane.NORMAL])
        ]
        assert len(entries) == 4
        assert all(len(fields[b"sig"]) == 64 for fields in entries)
        for keys in scene.keys:
            scene.raw.hset(keys.signed, "normal", "0-0")
        await scene.site()
        await scene.until_ended(one.id for one in ids)
        assert receiver.times == {one.id: 1 for one in ids}
        assert scene.quarantined() == {}
        await scene.until_clean()


async def test_what_the_broker_moves_itself_needs_no_signature_wherever_it_waited(
    any_streams_url, database_url
):
    """Native messages that are scheduled, parked, forwarded to another shard, declined; and a gateway's."""
    async with scene_on(any_streams_url, database_url, shards=3) as scene:
        receiver = await scene.receiver()
        own, to = scene.agent(), scene.agent(receiver, shard=1)
        unwilling = await scene.receiver()
        unwilling.script = lambda _: (200, b'{"status":"declined"}')
        scene.agent(unwilling, capabilities=("tales",))
        scene.agent(receiver, shard=2, capabilities=("tales",))
        site = await scene.guarded()
        native = scene.native(await scene.key_of(own))
        soon = datetime.now(UTC) + timedelta(seconds=1)
        scheduled = message(to, from_agent_id=own.id, deliver_at=soon)
        parked = message(from_agent_id=own.id, requirements=["sums"], id=in_shard(2))
        forwarded = message(id=in_shard(0), from_agent_id=own.id, requirements=["sums"])
        declined = [message(from_agent_id=own.id, requirements=["tales"]) for _ in range(20)]
        await native.publish_many([scheduled, parked, *declined])
        await until(lambda: {scheduled.id, parked.id} <= set(scene.by_id()))
        scene.agent(receiver, shard=1, capabilities=("sums",))
        await native.publish(forwarded)
        gateways = await scene.send(message(to, from_agent_id=own.id), message(to), waiter="gw")
        lease = site.lease(1, "keep")
        async with await open_connection(scene.url, name="test", key=scene.keys[1].active) as connection:
            schedule = Schedule(scene.keys[1], lease)
            while scene.raw.zcard(scene.keys[1].later):
                await schedule.look(connection)
                await asyncio.sleep(0.05)
        all_ids = {scheduled.id, parked.id, forwarded.id, *(one.id for one in declined), *gateways}
        await scene.until_ended(all_ids)
        assert {one: scene.ends()[one] for one in all_ids} == dict.fromkeys(all_ids, DELIVERED)
        assert receiver.times == dict.fromkeys(all_ids, 1)
        assert unwilling.times, "somebody has declined"
        assert {one.waiter for one in scene.by_id()[gateways[0]]} == {"gw"}
        assert scene.quarantined() == {}
        await scene.until_clean()


async def test_a_captured_entry_that_is_published_again_is_routed_once_and_nothing_beside_it_passes(
    scene: Scene,
) -> None:
    """Nor does a field that would take it for one that was deduplicated before, or tell a gateway of it."""
    receiver = await scene.receiver()
    own = scene.agent()
    raw = encode(sent := message(scene.agent(receiver), from_agent_id=own.id))
    key = await scene.key_of(own)
    await scene.guarded()
    for fields in ({}, {"p": "1"}, {"w": "gw"}, {"p": "1", "w": "gw"}):
        scene.add(raw, signed_by=key, **fields)
    scene.add(encode(last := message(scene.agent(receiver), from_agent_id=own.id)), signed_by=key)
    await scene.until_ended([sent.id, last.id])
    await scene.until_clean()
    assert receiver.times == {sent.id: 1, last.id: 1}
    assert {one.waiter for one in scene.events()} == {None}


async def test_a_key_works_no_more_soon_after_it_was_revoked(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "BELIEVED_S", 0.2)
    receiver = await scene.receiver()
    own, to = scene.agent(), scene.agent(receiver)
    key = await scene.key_of(own)
    publisher = scene.native(key)
    await scene.guarded()
    await publisher.publish(sent := message(to, from_agent_id=own.id))
    await scene.until_ended([sent.id])
    await stored_keys.revoke(scene.pool, key, own.id, now_ms=1)
    published = 1
    async with asyncio.timeout(20):
        while not scene.quarantined():
            await publisher.publish(message(to, from_agent_id=own.id))
            published += 1
            await asyncio.sleep(0.02)
    # What had passed by then may still be on its way.
    await until(lambda: len(receiver.ids) == published - len(scene.quarantined()))
    passed = len(receiver.ids)
    await publisher.publish(message(to, from_agent_id=own.id))
    await until(lambda: len(scene.quarantined()) > published - passed)
    assert {one.reason for one in scene.quarantined().values()} == {"key_ended"}
    assert len(receiver.ids) == passed


async def test_while_postgres_says_nothing_known_keys_pass_and_others_wait(
    streams_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "BELIEVED_S", 0.2)
    patient = await open_pool(database_url, application_name="test")
    monkeypatch.setattr(pool_module, "COMMAND_S", 0.3)
    postgres: SilentPostgres
    async with silenceable(database_url) as postgres, scene_on(streams_url, postgres.url) as scene:
        scene.pool = patient  # What the test itself writes is not cut short.
        receiver = await scene.receiver()
        to, known, unknown = scene.agent(receiver), scene.agent(), scene.agent()
        own, others = scene.native(await scene.key_of(known)), scene.native(await scene.key_of(unknown))
        await scene.guarded()
        await own.publish(first := message(to, from_agent_id=known.id))
        await scene.until_ended([first.id])
        await patient.aclose()
        monkeypatch.setattr(pool_module, "ACQUIRE_S", 0.3)
        monkeypatch.setattr(keyring_module, "PATIENCE_S", 0.3)
        postgres.fall_silent()
        waiting = [message(to, from_agent_id=unknown.id) for _ in range(3)]
        for one in waiting:
            await others.publish(one)
        forged = scene.add(encode(message(to, from_agent_id=known.id)))
        await own.publish(meanwhile := message(to, from_agent_id=known.id))
        await scene.until_ended([meanwhile.id])
        await until(lambda: forged in scene.quarantined())
        assert receiver.ids == [first.id, meanwhile.id]
        postgres.speak()
        await scene.until_ended(one.id for one in waiting)
        assert set(scene.quarantined()) == {forged}
        await scene.until_clean()


async def test_what_was_published_before_signatures_were_required_passes_and_nothing_later(
    scene: Scene,
) -> None:
    """And with them no longer required, what is still in the broker's own lanes is brought to be read."""
    receiver = await scene.receiver()
    to = scene.agent(receiver)
    old: list[Envelope] = [message(to) for _ in range(150)]
    for one in old:
        scene.add(encode(one), p="1", w="gw")
    site = await scene.guarded()
    late = scene.add(encode(message(to)))
    await scene.until_ended(one.id for one in old)
    await until(lambda: late in scene.quarantined())
    assert {one.waiter for one in scene.by_id()[old[0].id]} == {"gw"}
    await site.stop()
    # The next owner still knows which were before.
    later = scene.add(encode(message(to)))
    site = await scene.guarded()
    await until(lambda: later in scene.quarantined())
    await site.stop()
    left = await scene.send(*(message(to, lane=lane) for lane in Lane for _ in range(70)))
    scene.keys_class, scene.inspector = Keys, None
    await scene.site()
    scene.add(encode(unsigned := message(to)))
    await scene.until_ended([*left, unsigned.id])
    assert receiver.times == dict.fromkeys((*(one.id for one in old), *left, unsigned.id), 1)
    assert not scene.raw.exists(Keys(0).signed)
    await scene.until_clean()


@one_server
async def test_a_call_of_a_former_owner_and_one_that_memory_refuses_change_nothing(scene: Scene) -> None:
    keys = scene.keys[0]
    scene.raw.set(keys.owner("route"), "2:new")
    entry = scene.add(b"{}")
    touched = (keys.owner("route"), keys.ledger, LANE, keys.ingress[Lane.NORMAL])
    async with await open_connection(scene.url, name="test") as connection:
        with pytest.raises(Exception, match="FENCED"):
            await connection.evaluate(ADMIT, touched, "1:old", 1, b"[1]", 2, "m", "{}", entry)
        before = scene.raw.config_get("maxmemory")["maxmemory"]
        try:
            scene.raw.config_set("maxmemory", 1)
            with pytest.raises(StreamsFull):
                await connection.evaluate(ADMIT, touched, "2:new", 1, b"[1]", 2, "m", "{}", entry)
            with pytest.raises(StreamsFull):
                await connection.evaluate(ADMIT, touched, "2:new", 0, b"[1]", entry)
        finally:
            scene.raw.config_set("maxmemory", before)
        assert [scene.raw.xlen(key) for key in touched[1:]] == [0, 1, 0]
        assert await connection.evaluate(ADMIT, touched, "2:new", 1, b"[1]", 2, "m", "{}", entry) == 1
    assert [scene.raw.xlen(key) for key in touched[1:]] == [1, 0, 1]
    assert json.loads(scene.raw.xrange(keys.ledger)[0][1][b"b"]) == [1]
