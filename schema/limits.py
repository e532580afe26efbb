"""Every bound of the product, with its reason and what happens at it.

Deployment settings may lower or raise some of these; the constants here are the defaults and the hard
ceilings. Units are the last word of a name.
"""

from typing import Final

# --- messages -------------------------------------------------------------------------------------
MESSAGE_BYTES_MAX: Final = 256 * 1024
"""One message as JSON. Larger is refused at the edge (413)."""
ENVELOPE_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 16 * 1024
"""One message on the streams, with what the broker adds to it: ids, times, the capabilities its content names
(9 KiB at most), who was tried before. Larger is quarantined, and comes from native publishers only."""
MESSAGE_TYPE_CHARS_MAX: Final = 64
CONVERSATION_ID_CHARS_MAX: Final = 128
REQUIREMENTS_MAX: Final = 32
"""Capabilities one message may require. More is 422."""
JSON_DEPTH_MAX: Final = 32
JSON_KEYS_MAX: Final = 2_000
"""Keys of one body over HTTP, at every depth together. More, or deeper, is 422."""
QUARANTINED_BYTES_MAX: Final = 1024 * 1024
"""What is kept of something that is no message; the rest of it is dropped, and the record says so."""
PRIORITY_MIN: Final = 1
PRIORITY_MAX: Final = 10
PRIORITY_DEFAULT: Final = 5
COUNTER_MAX: Final = 32_767
"""Hops and rounds are stored as smallint."""
HOP_MAX: Final = 8
"""A message that answers a message that answers ... : beyond this the router fails it (`hop_limit`)."""
BATCH_MESSAGES_MAX: Final = 1_000
"""Messages in one batch request over HTTP."""
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
"""One batch request. Larger is 413; the publisher splits it."""
BODY_RECEIVE_MS_MAX: Final = 10_000
"""Time to receive a body over HTTP; a slower sender is cut off with 408."""
REQUEST_HEAD_BYTES_MAX: Final = 64 * 1024
"""URL and headers of one request over HTTP. Larger is 431, and the connection is closed."""
SCHEDULE_AHEAD_MS_MAX: Final = 365 * 24 * 3600 * 1000

# --- agents ---------------------------------------------------------------------------------------
AGENT_NAME_CHARS_MAX: Final = 128
STATUS_MESSAGE_CHARS_MAX: Final = 280
AGENT_TYPE_CHARS_MAX: Final = 64
CAPABILITY_CHARS_MAX: Final = 64
CAPABILITIES_MAX: Final = 256
ENDPOINT_CHARS_MAX: Final = 2_048
CONCURRENT_JOBS_MAX: Final = 10_000
SECRET_OVERLAP_MS: Final = 24 * 3600 * 1000
"""Pushes are signed with the former secret as well for this long after its rotation."""
SECRETS_KEY_CHARS_MIN: Final = 32
"""Of a key that encrypts secrets, as it stands in the settings: 32 random ones of base64 hold 192 bits."""
KEYS_KEPT_MS: Final = 30 * 24 * 3600 * 1000
"""How long keys that were revoked or have expired are still listed; then the keeper deletes them."""
KEYS_LIVE_MAX: Final = 20
"""Keys of one agent that work. One more is refused (409): revoke one first."""
KEYS_SHOWN_MAX: Final = 100
"""Keys of one agent in a list, the newest first; older ones have long been revoked."""
KEY_OVERLAP_S_DEFAULT: Final = 86_400
KEY_OVERLAP_S_MAX: Final = 604_800
DRAIN_S_DEFAULT: Final = 3_600
DRAIN_S_MAX: Final = 604_800
"""How long a leaving agent may take what waits for it; the rest is returned to its senders then."""
DEPARTURE_WATCH_MS: Final = 600_000
"""How long the mailboxes of a deleted agent are looked at: routers that have not heard may fill them."""
HEARTBEATS_MAX: Final = 1_000
"""Agents in one request that says they are there. More is 422: several requests take the rest."""
PRESENCE_WATCHED_MAX: Final = 500_000
"""Agents of one shard whose comings and goings are followed (some 200 bytes each); those of further ones are
not told."""
PRESENCE_CHANGES_PER_WORD_MAX: Final = 500
"""Changes of presence in one word on `ab:presence` (50 KB); more of them are several words."""
PRESENCE_KEPT_MS: Final = 7 * 24 * 3600 * 1000
"""An agent silent for longer is dropped from presence in Redis; Postgres keeps when it was last heard of."""
HEARTBEAT_STORED_EVERY_MS: Final = 60_000
"""An agent that is heard of all the time is stored in Postgres this often. Redis has the exact time."""
HEARTBEAT_BEHIND_MS_MAX: Final = 2 * HEARTBEAT_STORED_EVERY_MS + 15_000
"""How far the record may be behind: what is stored may be as old as the rest it waited out, and stands there
for another; and the seconds a sign takes to get there."""
PING_MESSAGE_CHARS_MAX: Final = 1_000
CONTACT_SUBJECT_CHARS_MAX: Final = 200
CONTACT_BODY_CHARS_MAX: Final = 20_000
CONTACT_REASON_CHARS_MAX: Final = 500
CONTACT_RATE_PER_MINUTE_MAX: Final = 60_000
CONTACT_REQUESTS_PER_HOUR_MAX: Final = 12
"""Requests of one stranger to an agent that takes messages of contacts only; one more is 429."""
CONTACTS_CACHED_MAX: Final = 50_000
"""Pairs of agents a gateway remembers for some seconds; at it all of them are looked up again."""
AGENTS_WITH_RATES_MAX: Final = 100_000
"""Agents with rates that a gateway knows by heart; with more, every pair that writes is looked up."""
PAGE_ROWS_MAX: Final = 100
PAGE_ROWS_DEFAULT: Final = 50

# --- streams --------------------------------------------------------------------------------------
PUBLISH_MESSAGES_PER_ENTRY_MAX: Final = 32
"""Messages of one lane that a publisher may put into one ingress entry. Redis executes 56,700 instructions a
message from publish to record with 32, 57,300 with 64 (measured)."""
ENTRY_MESSAGES_MAX: Final = 256
"""Messages in one ingress entry; an entry with more is quarantined whole."""
ROUTE_BATCH_MAX: Final = 128
"""Messages per route call: keeps the script under 2 ms (measured)."""
ROUTE_CALLS_IN_FLIGHT_MAX: Final = 3
SETTLE_BATCH_MAX: Final = 128
COLLECT_MAILBOXES_MAX: Final = 32
COLLECT_ENTRIES_PER_MAILBOX_MAX: Final = 16
DUE_BATCH_MAX: Final = 128
LEDGER_READ_ENTRIES_MAX: Final = 256
"""Ledger entries per read; an entry carries up to SETTLE_BATCH_MAX events."""
RECORD_EVENTS_MAX: Final = 1_000
"""Events per Postgres transaction: beyond this a transaction only holds its locks for longer."""
RECORD_BYTES_MAX: Final = 8 * 1024 * 1024
"""Ledger bytes the recorder aims to hold per shard; one entry of large messages may exceed it."""
REGISTRY_ENTRIES_MAX: Final = 100_000
"""The registry stream is a hint and capped; a reader that fell behind reloads from Postgres."""

# --- routing --------------------------------------------------------------------------------------
SILENT_AFTER_MS: Final = 5 * 60_000
"""An agent not heard for this long gets no messages by capability; a setting may change it."""
ONLINE_MS: Final = 60_000
"""Presence shows an agent online for this long after its last sign of life."""
ROUTE_RESAMPLES_MAX: Final = 4
"""Further random candidates looked at when the first two are full; then a scan begins."""
ROUTE_SCAN_MAX: Final = 64
"""Candidates a scan looks at for one with room; then the message queues at the least loaded one seen."""
ROUTE_EXCLUDED_MAX: Final = 32
"""Candidates a re-routed message may already have tried: fewer than a scan, so it always finds another."""
REROUTES_MAX: Final = 5
"""Times a message goes on to another agent; the one that has it then is the last, whatever comes of it."""
REROUTE_ATTEMPTS: Final = 3
"""Failed attempts at an agent chosen by capability before another gets the message (six seconds of the
`agent` schedule). With nobody else there the agent keeps its whole schedule."""
ROUTE_POOLS_MAX: Final = 10_000
ROUTE_POOLS_MEMBERS_MAX: Final = 8_000_000
"""Cached candidate lists, and members in all of them (4 bytes each). At either bound it starts anew."""
EXPLAINED_CANDIDATES_MAX: Final = 20
EXPLAINED_EXAMINED_MAX: Final = 1_000
"""Capable agents a dry run looks at one by one; filters before capacity are counted over all of them."""

# --- delivery -------------------------------------------------------------------------------------
ENDPOINT_IN_FLIGHT_MAX: Final = 4
ENDPOINT_DISABLE_AFTER_MS: Final = 5 * 24 * 3600 * 1000
"""An endpoint that has done nothing but fail for this long is disabled."""
ATTEMPT_OWN_MS_MAX: Final = 300_000
"""The longest deadline a message may ask for; a deployment may set another."""
NOTICE_MS: Final = 30 * 24 * 3600 * 1000
"""A note to the owner of an endpoint waits in its inbox for this long."""
ENDPOINT_PUSHES_PER_SECOND_MAX: Final = 100_000
"""More than a process can push: whoever wants no limit leaves it out."""
SHARD_IN_FLIGHT_MAX: Final = 512
MAILBOX_QUEUED_MAX: Final = 64
"""Messages of one mailbox held in memory; the rest waits in Redis and is collected later."""
SHARD_QUEUED_MAX: Final = 8_192
"""Messages of one shard in memory; beyond this the share of each mailbox shrinks, but never to nothing."""
MAILBOX_QUEUED_FULL: Final = 8
MAILBOX_QUEUED_MIN: Final = 2
ATTEMPTS_MAX: Final = 25
RESPONSE_READ_BYTES_MAX: Final = 16 * 1024
RESPONSE_HEADS_KNOWN_MAX: Final = 256
RESPONSE_HEAD_KNOWN_BYTES_MAX: Final = 1_024
"""Heads of responses that are remembered, and the longest among them: a quarter of a megabyte at most."""
RESPONSE_KEPT_BYTES_MAX: Final = 4 * 1024
RESPONSE_HEADER_BYTES_MAX: Final = 32 * 1024
RESPONSE_WIRE_BYTES_MAX: Final = 256 * 1024
"""One response on the wire, chunk framing and trailers included: beyond it the connection is closed."""
RESPONSE_INTERIM_MAX: Final = 16
"""1xx responses before the final one; more is a failed attempt."""
CONNECTIONS_OPEN_MAX: Final = 4_096
"""Open connections of one process. At it idle ones are closed, oldest first; then pushes wait their turn."""
PUSHES_WAITING_MAX: Final = 4_096
"""Pushes that wait for a connection; one more fails at once."""
CONNECTION_AGE_MS_MAX: Final = 300_000
"""A connection under steady load is closed after this, so that its name is resolved and judged again."""
CONNECTIONS_EVICTED_AT_ONCE: Final = 64
"""Idle connections closed together when the bound is hit: finding the oldest costs a scan of all."""
ADDRESSES_TRIED_MAX: Final = 4
"""Addresses of one name that an attempt connects to before it fails."""
RESOLVER_THREADS_MAX: Final = 16
RESOLVER_WAIT_MS_MAX: Final = 2_000
RESOLVER_CACHE_MS: Final = 30_000
RESOLVER_NAMES_MAX: Final = 10_000
"""Names in the cache; at it the oldest entries go."""
RESOLVER_ADDRESSES_MAX: Final = 64
"""Addresses of one name. More is a failed resolve: we would have to judge, and keep, every one."""

# --- work orders ----------------------------------------------------------------------------------
WORK_ORDER_TITLE_CHARS_MAX: Final = 200
WORK_ORDER_DESCRIPTION_CHARS_MAX: Final = 20_000
WORK_ORDER_TEXT_CHARS_MAX: Final = 2_000
"""A reason or a note. More is 422."""
WORK_ORDER_REQUIREMENTS_BYTES_MAX: Final = 64 * 1024
WORK_ORDER_RESULT_BYTES_MAX: Final = 128 * 1024
"""Both travel in messages, beside the description: together they fit MESSAGE_BYTES_MAX. More is 422."""
BUDGET_WHOLE_DIGITS_MAX: Final = 14
BUDGET_DECIMALS_MAX: Final = 6
"""Digits before and after the point of `budget_usd`, as its column holds them. More is 422, never rounded."""
WORK_ORDERS_UNFINISHED_MAX: Final = 10_000
"""Orders of one requester, pending or accepted. One more is refused (409): cancel one first."""
WORK_ORDER_OFFERED_AT_ONCE_MAX: Final = 64
"""Agents an open order is offered to in one go; the keeper offers it to others as time goes by."""
WORK_ORDER_OFFERED_MAX: Final = 256
"""Agents an open order is offered to per lease; then it waits for one of them."""
WORK_ORDER_EVENTS_MAX: Final = 1_000
"""Events in the history of one order. Beyond it progress and refusals are no longer noted; what changes the
status always is."""

# --- waiting --------------------------------------------------------------------------------------
WAIT_MS_DEFAULT: Final = 5_000
WAIT_MS_MAX: Final = 60_000
WAITERS_MAX: Final = 10_000
"""Requests of one gateway that wait for a rung; beyond this the reply comes at `accepted`."""

# --- inboxes --------------------------------------------------------------------------------------
INBOX_COUNTED_MAX: Final = 10_000
"""Messages of one inbox that are counted exactly; beyond it the total is this and says it is a bound."""
INBOX_WAIT_MS_MAX: Final = 30_000
INBOX_WAITERS_MAX: Final = 10_000
"""Polls of one gateway that wait for something to arrive; one more is answered at once."""
INBOX_WAITERS_PER_AGENT_MAX: Final = 64
"""Of one agent; one more is answered at once, so that no agent takes the room of all the others."""
RECORDED_AGENTS_MAX: Final = 4_096
"""Agents named in one word of record (a batch rarely has a quarter of that); the others' polls look by
themselves before long."""

# --- statistics -----------------------------------------------------------------------------------
STATISTICS_WORDS_MAX: Final = 500
"""Message types, and reasons, that are counted one by one; agents make them up. The rest is `other`."""
STATISTICS_UNFOLDED_READ_MAX: Final = 50_000
"""Changes not folded yet that a reader adds (half a second): beyond, the reply says it is not complete."""
STATISTICS_MINUTES: Final = 60
"""Points of the throughput: the current minute and those before it."""
STATISTICS_DAYS_MAX: Final = 3_650
STATISTICS_MINUTES_KEPT_MS: Final = 2 * 3600 * 1000

# --- dead letters ---------------------------------------------------------------------------------
REPLAY_MESSAGES_MAX: Final = 100
"""Messages replayed by one call; it says whether there are more."""
REPLAY_MARGIN_MS: Final = 24 * 3600 * 1000
"""Messages that the retention drops within this are not replayed: they could not end on record."""
REPLAY_COUNTED_MAX: Final = 100_000
"""Dead letters counted where a bulk replay begins; with more, its progress says "of at least"."""

BOUNCES_PER_WINDOW_MAX: Final = 60
"""Notes one sender gets of messages that ended badly per window; what ends beyond is counted, and told of in
one note when the window ends."""
BOUNCE_WINDOW_MS: Final = 60_000

# --- idempotency ----------------------------------------------------------------------------------
IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
IDEMPOTENCY_MS: Final = 24 * 3600 * 1000
"""A key is remembered for this long; then it is free again."""

# --- clusters --------------------------------------------------------------------------------------
CLUSTER_REDIRECTS_MAX: Final = 5
"""Redirections of one command: more than two mean that the nodes disagree, and its caller backs off."""

# --- admission ------------------------------------------------------------------------------------
ROOT_MESSAGES_MAX: Final = 200
"""Messages with a cause that go back to one message; a setting may change it. The next ends: `root_limit`."""
INBOX_MESSAGES_MAX: Final = 100_000_000
INBOX_BYTES_MAX: Final = 1024 * 1024 * 1024 * 1024
"""The highest quotas an operator may give one agent."""
FULL_INBOXES_MAX: Final = 10_000
"""Full inboxes that gateways are told of, for all routers together; of further ones only routers know."""
TRIPS_MAX: Final = 1_000
"""Trips that are listed. At it a further loop is stopped by the router that found it, and only there."""
KILL_SWITCHES_MAX: Final = 1_000
KILL_REASON_CHARS_MAX: Final = 500
FAIR_RATE_PER_S: Final = 500
"""Messages of one sender a second; what it publishes beyond goes through the lowest lane. A setting may
change it."""
FAIR_SHARE_S: Final = 2.0
"""A sender that was quiet may publish what its rate gives in this time at once."""
RATE_BUCKETS_MAX: Final = 100_000
"""Rates a gateway remembers; at it all begin anew."""
HTTP_CONNECTIONS_MAX: Final = 16_384
"""Open connections of one gateway. One more is answered 503 and closed. A setting may lower it."""

# --- live sessions --------------------------------------------------------------------------------
SESSIONS_MAX: Final = 10_000
"""Live sessions (SSE, WebSocket) of one gateway; one more is 503, and better off at another gateway."""
FRAME_BYTES_MAX: Final = 256 * 1024
"""One frame of a WebSocket, as large as a message may be; a larger one ends it with 1009."""
SOCKET_PING_S: Final = 20.0
PREFETCH_DEFAULT: Final = 32
PREFETCH_MAX: Final = 256
"""Messages a WebSocket is given before it has acknowledged any of them."""
STREAM_PAGE_ENTRIES_MAX: Final = 32
STREAM_PAGE_BYTES_AIM: Final = 256 * 1024
"""What a session holds in memory at a time: a page of entries per lane, shrunk where messages are large."""
WATCHED_AGENTS_MAX: Final = 100
WATCHED_CHANGES_MAX: Final = 1_000
"""Changes of presence that wait for a slow reader: of more agents than this, the oldest news goes."""
