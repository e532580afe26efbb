-- Moves entries from one lane of a shard to another of the same priority, or sets them aside (their bytes are in
-- ledger events then). Atomic, because a message must never be in two places or in none.
-- The first write is a growing one, so that Redis at its memory limit refuses all of it.
--
-- KEYS 1 owner:route  2 ledger  3 lane they leave  4 lane they go to
-- ARGV 1 owner value  2 number of entries to add  3 ledger events as a JSON array ('' for none)
--      then per entry to add: number of its arguments, and they: name, value, name, value, ...;
--      then the entries that leave
-- Reply: number of entries added.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED admit') end
local count = tonumber(ARGV[2])
local at = 3
for _ = 1, count do
  local n = tonumber(ARGV[at + 1])
  redis.call('XADD', KEYS[4], '*', unpack(ARGV, at + 2, at + 1 + n))
  at = at + 1 + n
end
if ARGV[3] ~= '' then redis.call('XADD', KEYS[2], '*', 'b', ARGV[3]) end
redis.call('XDEL', KEYS[3], unpack(ARGV, at + 1))
return count
