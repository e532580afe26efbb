-- Moves one batch of messages from the ingress lanes to where the router decided: a mailbox, a parked stream,
-- the set of scheduled messages, or nowhere (finished here; only its ledger event stays).
-- Atomic, because a message must never be in two places or in none, and because deduplication and move are one.
-- One redis.call a message, the rest once a batch. The first write is a growing one, so that Redis at its
-- memory limit refuses the whole batch and never half of it.
--
-- KEYS 1 owner:route  2 seen (this window)  3 seen (last window)  4 active  5 ledger  6 doorbell  7 expiry
--      8 parked  9 chosen  10 later  11 later:messages  12-14 ingress high, normal, low  15.. targets
-- ARGV 1 owner value  2 lifetime of `seen` in ms  3 now in ms  4 doorbell text ('' for none)
--      5 number of messages  6 number of mailboxes to activate  7 number of parked signatures
--      8 number of choices to forget  9-11 number of ingress entries to delete per lane
--      then per message: deduplication key ('' for none), target (0 none, -1 later, else index into KEYS 15..),
--        message, gateway that waits ('' for none; for a scheduled one its member: lane number and id),
--        ledger event ('' for none), when it expires (a scheduled one: is due) in ms ('' for never)
--      then: index of each mailbox to activate; signature and requirements of each parked one;
--        message ids whose choice is forgotten; ingress entries, lane by lane
-- Reply: per message the entry id in its target, '' where it has none, or false for a duplicate.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED route') end
local count = tonumber(ARGV[5])
local at = 11
local keys, places = {}, {}
for i = 1, count do
  local key = ARGV[at + 6 * i - 5]
  if key ~= '' then
    keys[#keys + 1] = key
    places[#places + 1] = i
  end
end
local duplicate = {}
if #keys > 0 then
  local now_seen = redis.call('SMISMEMBER', KEYS[2], unpack(keys))
  local before_seen = redis.call('SMISMEMBER', KEYS[3], unpack(keys))
  for k, i in ipairs(places) do
    if now_seen[k] == 1 or before_seen[k] == 1 then duplicate[i] = true end
  end
end
local reply, events, entries, expiry, fresh = {}, {}, {}, {}, {}
local has_entries = false
for i = 1, count do
  if duplicate[i] then
    reply[i] = false
  else
    local base = at + 6 * i - 5
    local key, target, message, waiter = ARGV[base], tonumber(ARGV[base + 1]), ARGV[base + 2], ARGV[base + 3]
    local event, moment = ARGV[base + 4], ARGV[base + 5]
    local entry = ''
    if target > 0 then
      if waiter == '' then
        entry = redis.call('XADD', KEYS[14 + target], '*', 'm', message)
      else
        entry = redis.call('XADD', KEYS[14 + target], '*', 'm', message, 'w', waiter)
      end
      if moment ~= '' then
        expiry[#expiry + 1] = moment
        expiry[#expiry + 1] = KEYS[14 + target] .. '|' .. entry
      end
    elseif target == -1 then
      redis.call('ZADD', KEYS[10], moment, waiter)
      redis.call('HSET', KEYS[11], waiter, message)
    end
    if event ~= '' then
      events[#events + 1] = event
      if target > 0 then
        entries[#entries + 1] = entry
        has_entries = true
      else
        entries[#entries + 1] = '-'
      end
    end
    if key ~= '' then fresh[#fresh + 1] = key end
    reply[i] = entry
  end
end
at = at + 6 * count
if #fresh > 0 then
  redis.call('SADD', KEYS[2], unpack(fresh))
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
if #expiry > 0 then redis.call('ZADD', KEYS[7], unpack(expiry)) end
local activate = tonumber(ARGV[6])
if activate > 0 then
  local pairs_ = {}
  for i = 1, activate do
    pairs_[2 * i - 1] = ARGV[3]
    pairs_[2 * i] = KEYS[14 + tonumber(ARGV[at + i])]
  end
  redis.call('ZADD', KEYS[4], 'NX', unpack(pairs_))
  at = at + activate
end
local parked = tonumber(ARGV[7])
if parked > 0 then
  redis.call('HSET', KEYS[8], unpack(ARGV, at + 1, at + 2 * parked))
  at = at + 2 * parked
end
local forget = tonumber(ARGV[8])
if forget > 0 then
  redis.call('HDEL', KEYS[9], unpack(ARGV, at + 1, at + forget))
  at = at + forget
end
if #events > 0 then
  local batch = '[' .. table.concat(events, ',') .. ']'
  if has_entries then
    redis.call('XADD', KEYS[5], '*', 'b', batch, 'i', table.concat(entries, ' '))
  else
    redis.call('XADD', KEYS[5], '*', 'b', batch)
  end
end
if ARGV[4] ~= '' then redis.call('XADD', KEYS[6], 'MAXLEN', '~', 10000, '*', 'm', ARGV[4]) end
for lane = 1, 3 do
  local n = tonumber(ARGV[8 + lane])
  if n > 0 then
    redis.call('XDEL', KEYS[11 + lane], unpack(ARGV, at + 1, at + n))
    at = at + n
  end
end
return reply
