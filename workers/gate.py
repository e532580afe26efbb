"""The gate of a shard, where native publishers must sign (`REQUIRE_SIGNED_INGRESS`).

They write into lanes that only the gate reads. What is signed by a key that works, and whose owner may send
as who the message says it is from, it moves into the broker's own lanes, which routers read; everything else
goes to quarantine with the reason. The broker's own messages, and all that scripts move back (scheduled,
parked, declined, forwarded ones), are put into those lanes directly: they need no signature, because who may
only publish natively cannot write there.

Invariants: nothing passes unless PostgreSQL has said whose key it is and that it works (while it is away that
counts for ten minutes; what others have signed waits in its lane). Only messages pass, none of the other
fields of an entry: not what says that a message was deduplicated before, nor that a gateway waits for it.
What was published before signatures were required passes as it is.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import UNSET, Struct

from broker.core.quarantine import set_aside
from broker.core.signing import KEY_ID_FIELD, SIGNATURE_FIELD, Refusal, is_signed
from broker.gateway.access import authorize
from broker.gateway.call import Principal, Scope
from broker.gateway.keyring import Keyring
from broker.streams.gate import READ_ENTRIES_MAX, Lanes, Passage, Published
from broker.telemetry import logs, metrics
from schema.agent import Agent
from schema.codec import decode_envelope, encode
from schema.errors import Forbidden, Rejected, StoreUnavailable, StreamsFull, Unauthenticated
from schema.ids import is_id
from schema.limits import ENTRY_MESSAGES_MAX
from schema.message import LANES, Envelope, Lane

BLOCK_MS: Final = 2_000
AGAIN_MS: Final = 1_000
"""Wait before what could not be judged, or not be moved, is read again."""
BELIEVED_S: Final = 5.0
"""How long it counts what was found out of a key: the longest that one still works after it was revoked."""
OWNERS_MAX: Final = 20_000
CARRY_S: Final = 30.0
ENTRY_FIELDS_MAX: Final = 4 * ENTRY_MESSAGES_MAX
"""Names and values of an entry; Lua takes no 8,000 values at once."""
MOVED_MESSAGES_MAX: Final = 256
"""Messages after which a call takes no further entry, so that no script takes long."""

_KEY_ID: Final = KEY_ID_FIELD.encode()
_SIGNATURE: Final = SIGNATURE_FIELD.encode()


class Refused(Struct, frozen=True):
    """Why an entry is not let in."""

    reason: Refusal
    detail: str


Verdict = list[bytes] | Refused | None
"""The fields with which an entry passes; why it does not; None where nobody can say now."""


class Owners:
    """Who may send with which publishing key, as PostgreSQL says; remembered for seconds."""

    def __init__(self, keyring: Keyring, *, now_ms: Callable[[], int]) -> None:
        self._keyring = keyring
        self._now_ms = now_ms
        self._known: dict[str, tuple[float, Principal | Refused | None]] = {}

    async def look(self, key_ids: Iterable[str]) -> None:
        """Find out about keys, all at once: one that cannot be asked after holds up no other for long."""
        loop = asyncio.get_running_loop()
        asked = [one for one in key_ids if one not in self._known or self._known[one][0] <= loop.time()]
        if len(self._known) > OWNERS_MAX:
            self._known = {one: self._known[one] for one in key_ids if one in self._known}
        found = await asyncio.gather(*map(self._find, asked))
        until_s = loop.time() + BELIEVED_S
        self._known |= {key_id: (until_s, owner) for key_id, owner in zip(asked, found, strict=True)}

    def get(self, key_id: str) -> Principal | Refused | None:
        """Return what was found; None where nobody could say."""
        # It may have been dropped while others were asked for: then it is asked for again.
        found = self._known.get(key_id)
        return None if found is None else found[1]

    async def _find(self, key_id: str) -> Principal | Refused | None:
        try:
            return await self._keyring.owner_of(key_id, now_ms=self._now_ms(), fresh_ms=0)
        except Unauthenticated as error:
            return Refused(Refusal.KEY_ENDED, error.message)
        except StoreUnavailable:
            return None


class Inspector:
    """Judges entries. `find_agent`: by id, as far as the directory knows by now."""

    def __init__(
        self, secrets_keys: Sequence[str], owners: Owners, *, find_agent: Callable[[str], Agent | None]
    ) -> None:
        self._secrets_keys = secrets_keys
        self._owners = owners
        self._find_agent = find_agent

    async def inspect(self, entries: Sequence[Published]) -> list[Verdict]:
        """Judge entries, in their order."""
        proved = [self._prove(entry) for entry in entries]
        await self._owners.look({one for one in proved if isinstance(one, str)})
        return [self._judge(entry, by) for entry, by in zip(entries, proved, strict=True)]

    def _prove(self, entry: Published) -> str | Refused | None:
        """Return the id of the key that has signed an entry; None for one that needs no signature."""
        messages = entry.messages
        if not 1 <= len(messages) <= ENTRY_MESSAGES_MAX or len(entry.fields) > ENTRY_FIELDS_MAX:
            detail = f"{len(messages)} messages in {len(entry.fields) // 2} fields; 1 to {ENTRY_MESSAGES_MAX}"
            return Refused(Refusal.MALFORMED, detail)
        if entry.before:
            return None
        key_id, signature = entry.get(_KEY_ID), entry.get(_SIGNATURE)
        if not key_id or not signature:
            return Refused(Refusal.UNSIGNED, "only what is signed is taken: fields `k` and `sig`")
        # Before anybody is asked whose key it is: made-up ones cost no look-up.
        if not is_signed(self._secrets_keys, key_id, signature, messages):
            return Refused(Refusal.BAD_SIGNATURE, "not signed with a publishing key of this deployment")
        return key_id.decode()

    def _judge(self, entry: Published, by: str | Refused | None) -> Verdict:
        if by is None:
            return entry.fields
        owner = by if isinstance(by, Refused) else self._owners.get(by)
        if owner is None or isinstance(owner, Refused):
            return owner
        fields: list[bytes] = []
        for raw in entry.messages:
            sent = self._sent_by(owner, raw)
            if not isinstance(sent, bytes):
                return sent  # What was signed together passes together.
            fields += (b"m", sent)
        return fields

    def _sent_by(self, owner: Principal, raw: bytes) -> bytes | Refused | None:
        """Return a message as it passes, from who has signed it."""
        try:
            envelope = decode_envelope(raw)
            _check_publishers(envelope)
        except Rejected as error:
            return Refused(Refusal.MALFORMED, error.message)
        claimed, own = envelope.from_agent_id, owner.agent_id
        sender = claimed if own is None else own
        if own is not None and claimed is not None and claimed.lower() != own:
            agent = self._find_agent(own)
            if agent is None and not is_id(claimed.lower()):
                return None  # Its name, perhaps: an agent so new that the directory has not heard of it.
            if agent is None or agent.name != claimed:
                sender = claimed
        try:
            authorize(owner, Scope.MESSAGES_SEND, sender)
        except Forbidden as error:
            return Refused(Refusal.NOT_THE_SENDER, error.message)
        if sender == claimed:
            return raw
        envelope.from_agent_id = sender
        return encode(envelope)


class Gate:
    """Lets in what comes to the lanes of one shard."""

    def __init__(self, lanes: Lanes, inspector: Inspector, *, now_ms: Callable[[], int]) -> None:
        self._lanes = lanes
        self._inspector = inspector
        self._now_ms = now_ms

    async def run(self) -> None:
        """Let in until cancelled. Raises: Fenced, StreamsUnavailable."""
        await self._close()
        loop = asyncio.get_running_loop()
        again_s: float | None = None
        while True:
            found = await self._lanes.read(block_ms=BLOCK_MS if again_s is None else AGAIN_MS)
            if again_s is None and not await self._pass_all(found):
                again_s = loop.time() + AGAIN_MS / 1000
            elif again_s is not None:
                await self._pass_all(found)
            # Only once everything behind was read too: what cannot be judged must not stand before it.
            is_behind = any(len(entries) == READ_ENTRIES_MAX for entries in found.values())
            if again_s is not None and loop.time() >= again_s and not is_behind:
                self._lanes.read_again()
                again_s = None

    async def _close(self) -> None:
        while True:
            try:
                await self._lanes.close_gate()
                return
            except StreamsFull:
                await asyncio.sleep(AGAIN_MS / 1000)

    async def _pass_all(self, found: Mapping[Lane, Sequence[Published]]) -> bool:
        """Let in what may pass, set aside what may not; tell whether that was all."""
        try:
            # A list, not a generator: one that could not be judged keeps no other lane from being passed on.
            return all([await self._pass(lane, found[lane]) for lane in LANES if lane in found])
        except StreamsFull:
            await asyncio.sleep(AGAIN_MS / 1000)
            return False

    async def _pass(self, lane: Lane, entries: Sequence[Published]) -> bool:
        left = 0
        for batch in _batches(entries):
            passage = Passage()
            for entry, verdict in zip(batch, await self._inspector.inspect(batch), strict=True):
                if verdict is None:
                    left += 1
                    continue
                passage.leaving.append(entry.id)
                if isinstance(verdict, Refused):
                    passage.events.append(self._set_aside(lane, entry, verdict))
                else:
                    passage.added.append(verdict)
            if passage.leaving:
                await self._lanes.admit(lane, passage)
        return left == 0

    def _set_aside(self, lane: Lane, entry: Published, refused: Refused) -> bytes:
        stream, entry_id, reason = self._lanes.published(lane), entry.id.decode(), refused.reason.value
        metrics.QUARANTINED.child().inc()
        metrics.TURNED_AWAY.child(reason=reason).inc()
        logs.warning("gate.turned_away", stream=stream, entry=entry_id, reason=reason)
        raw, detail, now_ms = b"\n".join(entry.messages), refused.detail, self._now_ms()
        return encode(
            set_aside(raw, stream=stream, entry=entry_id, reason=reason, detail=detail, now_ms=now_ms)
        )


async def carry_back(lanes: Lanes) -> None:
    """Where no signatures are required any more: bring what is still in the broker's own lanes to where it is
    read, until cancelled; a process that has not heard of it yet may put more there.

    Raises: Fenced, StreamsUnavailable.
    """
    await lanes.open_gate()
    while True:
        with suppress(StreamsFull):  # They stay where they are until the next look.
            for lane in LANES:
                while await lanes.carry_back(lane):
                    pass
        await asyncio.sleep(CARRY_S)


def _check_publishers(envelope: Envelope) -> None:
    """Refuse what only the broker says of a message. Raises: Rejected."""
    for name in ("round", "route", "tried"):
        if getattr(envelope, name) is not UNSET:
            raise Rejected(f"{name}: is not a publisher's to say", field=name)


def _batches(entries: Sequence[Published]) -> Iterator[list[Published]]:
    batch: list[Published] = []
    messages = 0
    for entry in entries:
        batch.append(entry)
        messages += len(entry.messages)
        if messages >= MOVED_MESSAGES_MAX:
            yield batch
            batch, messages = [], 0
    if batch:
        yield batch
