-- commit: store the steps of many sessions of one shard, each once, only for the shard's owner.
--
-- KEYS  1 owner  2 position  3 records  4 versions  5 pending  6 outbox  7 wakes  8 floors  9 recent
-- ARGV  owner token, position expected, position after, conversation key prefix, recent sessions kept,
--       outbox id or '', outbox body,
--       n, then n outbox ids that are settled,
--       n, then n archived sessions: session, version, summary or '', floor that remains or '',
--       n, then n sessions, n versions expected, n times (session, version after), n times (session, record),
--       then five lists, each with its length first: wakes (time, session), sessions without a wake, floors (sequence, session),
--          pending (id, body), resolved ids,
--       then to the end, conversations: session, n, n entries
-- Returns OK, FENCED (another owns the shard) or STALE (position or a version is not as expected).
-- Promise: with anything but OK, nothing was written.
-- What goes to one key is written with one command, whatever the number of sessions: half as many commands, here and in the append-only file.
local held = redis.call('MGET', KEYS[1], KEYS[2])
if held[1] ~= ARGV[1] then return 'FENCED' end
if (held[2] or '') ~= ARGV[2] then return 'STALE' end

local at = 8
-- A list with its length first: where it begins, and how long it is.
local function list()
  local from, length = at + 1, tonumber(ARGV[at])
  at = from + length
  return from, length
end
-- One command for a stretch of arguments, in pieces that fit Lua's stack (even, so that no pair is torn).
local piece = 4000
local function each(from, length, run)
  for first = from, from + length - 1, piece do run(first, math.min(first + piece, from + length) - 1) end
end
local function write(command, key, from, length)
  each(from, length, function(first, last) redis.call(command, key, unpack(ARGV, first, last)) end)
end

local settledFrom, settled = list()
local archivedFrom, archived = at + 1, tonumber(ARGV[at])
at = archivedFrom + 4 * archived
local sessionsFrom, sessions = list()
local expectedFrom = at
-- Look at every version before anything is written.
local isStale = false
each(sessionsFrom, sessions, function(first, last)
  local versions = redis.call('HMGET', KEYS[4], unpack(ARGV, first, last))
  for index = first, last do
    if (versions[index - first + 1] or '0') ~= ARGV[index + sessions] then isStale = true end
  end
end)
if isStale then return 'STALE' end

redis.call('SET', KEYS[2], ARGV[3])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[6], ARGV[6], ARGV[7]) end
write('HDEL', KEYS[6], settledFrom, settled)
at = expectedFrom + sessions
write('HSET', KEYS[4], at, 2 * sessions)
at = at + 2 * sessions
write('HSET', KEYS[3], at, 2 * sessions)
at = at + 2 * sessions
write('ZADD', KEYS[7], list())
write('ZREM', KEYS[7], list())
local floorsFrom, floors = list()
each(floorsFrom, floors, function(first, last) redis.call('ZADD', KEYS[8], 'NX', unpack(ARGV, first, last)) end)
write('HSET', KEYS[5], list())
write('HDEL', KEYS[5], list())
while at <= #ARGV do
  local conversation, entries = ARGV[4] .. ARGV[at], tonumber(ARGV[at + 1])
  write('RPUSH', conversation, at + 2, entries)
  at = at + 2 + entries
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
