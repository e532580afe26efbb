-- Moves parked messages back into their ingress lane, oldest first: a capable agent is there now. Marked `p`
-- (passed the gate), because they were deduplicated before they were parked. Atomic: in one place or the other.
--
-- KEYS 1 owner:route  2 parked stream  3 ingress lane  4 parked (signatures)  5 expiry
-- ARGV 1 owner value  2 how many at most  3 signature
-- Reply: number moved.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED unpark') end
local entries = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', ARGV[2])
local ids, members = {}, {}
for i, entry in ipairs(entries) do
  local fields = entry[2]
  fields[#fields + 1] = 'p'
  fields[#fields + 1] = '1'
  redis.call('XADD', KEYS[3], '*', unpack(fields))
  ids[i] = entry[1]
  members[i] = KEYS[2] .. '|' .. entry[1]
end
if #ids > 0 then
  redis.call('XDEL', KEYS[2], unpack(ids))
  redis.call('ZREM', KEYS[5], unpack(members))
end
if redis.call('XLEN', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[2])
  redis.call('HDEL', KEYS[4], ARGV[3])
end
return #ids
