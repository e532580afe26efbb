-- Moves one batch of messages from the ingress lanes to where the router decided: a mailbox, a parked stream,
-- the set of scheduled messages, or nowhere (finished here; only its ledger event stays).
-- Atomic, because a message must never be in two places or in none, and because deduplication and move are one.
-- One redis.call a batch where that will do, one a message that goes into a stream: the keys to look up lie side by
-- side, and so does what is handed over directly, so that they go on as they came; what few messages have (a waiter,
-- an expiry) is named by the message's number.
-- The first write is a growing one, so that Redis at its memory limit refuses the whole batch and never half of it.
--
-- KEYS 1 owner:route  2 seen (this window)  3 seen (last window)  4 active  5 ledger  6 doorbell  7 expiry
--      8 parked  9 chosen  10 later  11 later:messages  12 direct  13 direct_to  14-16 ingress high, normal, low
--      17.. the streams of the messages that go into one; then the mailboxes to activate
-- ARGV 1 owner value  2 lifetime of `seen` in ms  3 now in ms  4 doorbell text ('' for none)
--      5 number of messages  6 how many of them have no deduplication key
--      7 ledger events as a JSON array ('' for none)  8 lengths of the events in it, in bytes, space-separated
--      9 number of messages an event is about (0: one event for every message, in order)
--      10 number of waiters  11 of expiries  12 of scheduled messages  13 of mailboxes to activate
--      14 of parked signatures  15 of choices to forget  16-18 of ingress entries to delete per lane
--      19 to whom messages are handed directly  20 number of messages that are  21 of messages that go into a stream
--      then deduplication keys ('' for none), one per message; numbers of the messages handed over directly (left
--        out where all are); field and message of each of them; numbers of those that go into a stream (left out where
--        all do); those messages; numbers of the messages the events are about, in the order of the events;
--        number and gateway that waits; number and ms of each expiry;
--        number, member (lane number and id), due ms and message of each scheduled one;
--        signature and requirements of each parked one; message ids whose choice is forgotten;
--        ingress entries, lane by lane
-- Reply: '' where nothing went into a stream and nothing is a duplicate; else per message the entry id in its stream,
--   '-' where it has none, '=' for a duplicate; space-separated.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED route') end
local direct, streams = tonumber(ARGV[20]), tonumber(ARGV[21])
if direct > 0 and redis.call('GET', KEYS[13]) ~= ARGV[19] then return redis.error_reply('FENCED direct') end
local count = tonumber(ARGV[5])
local keys_at = 21
local duplicate, duplicates = {}, 0
if count > 0 then
  for window = 2, 3 do
    local known = redis.call('SMISMEMBER', KEYS[window], unpack(ARGV, keys_at + 1, keys_at + count))
    for i = 1, count do
      if known[i] == 1 and not duplicate[i] then
        duplicate[i] = true
        duplicates = duplicates + 1
      end
    end
  end
end
local numbers_at = keys_at + count
local direct_at = numbers_at + (direct < count and direct or 0)
local streams_at = direct_at + 2 * direct
if direct > 0 and duplicates == 0 then
  redis.call('HSET', KEYS[12], unpack(ARGV, direct_at + 1, streams_at))
elseif direct > 0 then
  local fresh = {}
  for n = 1, direct do
    if not duplicate[direct < count and tonumber(ARGV[numbers_at + n]) or n] then
      fresh[#fresh + 1] = ARGV[direct_at + 2 * n - 1]
      fresh[#fresh + 1] = ARGV[direct_at + 2 * n]
    end
  end
  if #fresh > 0 then redis.call('HSET', KEYS[12], unpack(fresh)) end
end
local messages_at = streams_at + (streams < count and streams or 0)
local abouts_at = messages_at + streams
local about = tonumber(ARGV[9])
local at = abouts_at + about
local waiter = {}
for _ = 1, tonumber(ARGV[10]) do
  waiter[tonumber(ARGV[at + 1])] = ARGV[at + 2]
  at = at + 2
end
local reply, stream, landed = {}, {}, false
local expiries = tonumber(ARGV[11])
if duplicates > 0 or (streams > 0 and streams < count) then
  for i = 1, count do
    reply[i] = duplicate[i] and '=' or '-'
  end
end
for n = 1, streams do
  local i = streams < count and tonumber(ARGV[streams_at + n]) or n
  local message = ARGV[messages_at + n]
  if not duplicate[i] then
    landed = true
    if expiries > 0 then stream[i] = KEYS[16 + n] end
    if waiter[i] then
      reply[i] = redis.call('XADD', KEYS[16 + n], '*', 'm', message, 'w', waiter[i])
    else
      reply[i] = redis.call('XADD', KEYS[16 + n], '*', 'm', message)
    end
  end
end
local expiry = {}
for _ = 1, expiries do
  local i = tonumber(ARGV[at + 1])
  if not duplicate[i] then
    expiry[#expiry + 1] = ARGV[at + 2]
    expiry[#expiry + 1] = stream[i] .. '|' .. reply[i]
  end
  at = at + 2
end
for _ = 1, tonumber(ARGV[12]) do
  if not duplicate[tonumber(ARGV[at + 1])] then
    redis.call('ZADD', KEYS[10], ARGV[at + 3], ARGV[at + 2])
    redis.call('HSET', KEYS[11], ARGV[at + 2], ARGV[at + 4])
  end
  at = at + 4
end
local keyless = tonumber(ARGV[6])
if duplicates == 0 and keyless == 0 and count > 0 then
  redis.call('SADD', KEYS[2], unpack(ARGV, keys_at + 1, keys_at + count))
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
elseif duplicates + keyless < count then
  local fresh = {}
  for i = 1, count do
    local key = ARGV[keys_at + i]
    if key ~= '' and not duplicate[i] then fresh[#fresh + 1] = key end
  end
  redis.call('SADD', KEYS[2], unpack(fresh))
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
if #expiry > 0 then redis.call('ZADD', KEYS[7], unpack(expiry)) end
local activate = tonumber(ARGV[13])
if activate > 0 then
  local pairs_ = {}
  for i = 1, activate do
    pairs_[2 * i - 1] = ARGV[3]
    pairs_[2 * i] = KEYS[16 + streams + i]
  end
  redis.call('ZADD', KEYS[4], 'NX', unpack(pairs_))
end
local parked = tonumber(ARGV[14])
if parked > 0 then
  redis.call('HSET', KEYS[8], unpack(ARGV, at + 1, at + 2 * parked))
  at = at + 2 * parked
end
local forget = tonumber(ARGV[15])
if forget > 0 then
  redis.call('HDEL', KEYS[9], unpack(ARGV, at + 1, at + forget))
  at = at + forget
end
local events = ARGV[7]
if events ~= '' then
  local entries
  if duplicates == 0 and about == 0 then
    entries = table.concat(reply, ' ')
  else
    local kept, of, number, from = {}, {}, 0, 2
    for length in string.gmatch(ARGV[8], '%d+') do
      number = number + 1
      local i = about == 0 and number or tonumber(ARGV[abouts_at + number])
      if not duplicate[i] then
        kept[#kept + 1] = string.sub(events, from, from + length - 1)
        of[#of + 1] = reply[i]
      end
      from = from + length + 1
    end
    events = #kept > 0 and '[' .. table.concat(kept, ',') .. ']' or ''
    entries = table.concat(of, ' ')
  end
  if events ~= '' and landed then
    redis.call('XADD', KEYS[5], '*', 'b', events, 'i', entries)
  elseif events ~= '' then
    redis.call('XADD', KEYS[5], '*', 'b', events)
  end
end
if ARGV[4] ~= '' then redis.call('XADD', KEYS[6], 'MAXLEN', '~', 10000, '*', 'm', ARGV[4]) end
for lane = 1, 3 do
  local n = tonumber(ARGV[15 + lane])
  if n > 0 then
    redis.call('XDEL', KEYS[13 + lane], unpack(ARGV, at + 1, at + n))
    at = at + n
  end
end
return table.concat(reply, ' ')
