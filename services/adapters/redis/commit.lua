-- commit: store the steps of many sessions of one shard, each once, only for the shard's owner.
--
-- KEYS  1 owner  2 position  3 records  4 versions  5 pending  6 outbox  7 wakes  8 floors  9 recent
-- ARGV  owner token, position expected, position after, conversation key prefix, recent sessions kept,
--       outbox id or '', outbox body,
--       n, then n outbox ids that are settled,
--       n, then n archived sessions: session, version, summary or '', floor that remains or '',
--       n, then n sessions: session, version expected, version after, record, wake time or '', floor or '',
--          n entries..., n pending (id, body)..., n resolved ids...
-- Returns OK, FENCED (another owns the shard) or STALE (position or a version is not as expected).
-- Promise: with anything but OK, nothing was written.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'FENCED' end
local position = redis.call('GET', KEYS[2])
if (position or '') ~= ARGV[2] then return 'STALE' end

-- First pass: look at every version before anything is written.
local at = 8
local settled = tonumber(ARGV[at]); at = at + 1
local settledFrom = at; at = at + settled
local archived = tonumber(ARGV[at]); at = at + 1
local archivedFrom = at; at = at + 4 * archived
local sessions = tonumber(ARGV[at]); at = at + 1
local first = at
for _ = 1, sessions do
  if (redis.call('HGET', KEYS[4], ARGV[at]) or '0') ~= ARGV[at + 1] then return 'STALE' end
  at = at + 6
  at = at + 1 + tonumber(ARGV[at])
  at = at + 1 + 2 * tonumber(ARGV[at])
  at = at + 1 + tonumber(ARGV[at])
end

-- Second pass: write.
redis.call('SET', KEYS[2], ARGV[3])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[6], ARGV[6], ARGV[7]) end
for index = settledFrom, settledFrom + settled - 1 do redis.call('HDEL', KEYS[6], ARGV[index]) end
at = first
for _ = 1, sessions do
  local session = ARGV[at]
  redis.call('HSET', KEYS[4], session, ARGV[at + 2])
  redis.call('HSET', KEYS[3], session, ARGV[at + 3])
  if ARGV[at + 4] == '' then redis.call('ZREM', KEYS[7], session) else redis.call('ZADD', KEYS[7], ARGV[at + 4], session) end
  if ARGV[at + 5] ~= '' then redis.call('ZADD', KEYS[8], 'NX', ARGV[at + 5], session) end
  at = at + 6
  local entries = tonumber(ARGV[at]); at = at + 1
  for index = at, at + entries - 1 do redis.call('RPUSH', ARGV[4] .. session, ARGV[index]) end
  at = at + entries
  local pending = tonumber(ARGV[at]); at = at + 1
  for index = at, at + 2 * pending - 1, 2 do redis.call('HSET', KEYS[5], ARGV[index], ARGV[index + 1]) end
  at = at + 2 * pending
  local resolved = tonumber(ARGV[at]); at = at + 1
  for index = at, at + resolved - 1 do redis.call('HDEL', KEYS[5], ARGV[index]) end
  at = at + resolved
end
-- What was archived and has not moved since needs no mail any more; what has ended leaves a summary only.
for index = archivedFrom, archivedFrom + 4 * archived - 1, 4 do
  local session = ARGV[index]
  if (redis.call('HGET', KEYS[4], session) or '') == ARGV[index + 1] then
    redis.call('ZREM', KEYS[8], session)
    if ARGV[index + 2] ~= '' then
      redis.call('HDEL', KEYS[3], session)
      redis.call('HDEL', KEYS[4], session)
      redis.call('ZREM', KEYS[7], session)
      redis.call('DEL', ARGV[4] .. session)
      redis.call('LPUSH', KEYS[9], ARGV[index + 2])
      redis.call('LTRIM', KEYS[9], 0, tonumber(ARGV[5]) - 1)
    end
  elseif ARGV[index + 3] ~= '' and redis.call('ZSCORE', KEYS[8], session) then
    redis.call('ZADD', KEYS[8], ARGV[index + 3], session)
  end
end
return 'OK'
