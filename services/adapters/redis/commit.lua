-- commit: store the steps of many sessions, of one shard or of several, each once, only for the owner of its shard.
--
-- For each shard nine KEYS
--       1 owner  2 position  3 records  4 versions  5 pending  6 outbox  7 wakes  8 floors  9 recent
-- and in ARGV the number of its arguments, then these:
--       owner token, position expected, position after, conversation key prefix, recent sessions kept,
--       outbox id or '', outbox body,
--       n, then n outbox ids that are settled,
--       n, then n archived sessions: session, version, summary or '', floor that remains or '',
--       n, then n sessions, n versions expected, n times (session, version after), n times (session, record),
--       then five lists, each with its length first: wakes (time, session), sessions without a wake, floors (sequence, session),
--          pending (id, body), resolved ids,
--       then to the end, conversations: session, n, n entries
-- Returns for each shard OK, FENCED (another owns the shard), STALE (position or a version is not as expected), or ERROR and what Redis said.
-- Promise: with FENCED and STALE nothing of that shard was written; with ERROR nobody knows. No shard is held up by another.
-- What goes to one key is written with one command, whatever the number of sessions: half as many commands, here and in the append-only file.
local at
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

-- One shard: its keys come after `key`, its arguments stand from `from` to `last`.
local function commit(key, from, last)
  local token, expected, after, conversations, recentKept, outboxId, outboxBody = unpack(ARGV, from, from + 6)
  local owner, position, records, versions, pending, outbox, wakes, floors, recent = unpack(KEYS, key + 1, key + 9)
  local held = redis.call('MGET', owner, position)
  if held[1] ~= token then return 'FENCED' end
  if (held[2] or '') ~= expected then return 'STALE' end

  at = from + 7
  local settledFrom, settled = list()
  local archivedFrom, archived = at + 1, tonumber(ARGV[at])
  at = archivedFrom + 4 * archived
  local sessionsFrom, sessions = list()
  local expectedFrom = at
  -- Look at every version before anything is written.
  local isStale = false
  each(sessionsFrom, sessions, function(first, final)
    local stored = redis.call('HMGET', versions, unpack(ARGV, first, final))
    for index = first, final do
      if (stored[index - first + 1] or '0') ~= ARGV[index + sessions] then isStale = true end
    end
  end)
  if isStale then return 'STALE' end

  redis.call('SET', position, after)
  if outboxId ~= '' then redis.call('HSET', outbox, outboxId, outboxBody) end
  write('HDEL', outbox, settledFrom, settled)
  at = expectedFrom + sessions
  write('HSET', versions, at, 2 * sessions)
  at = at + 2 * sessions
  write('HSET', records, at, 2 * sessions)
  at = at + 2 * sessions
  write('ZADD', wakes, list())
  write('ZREM', wakes, list())
  local floorsFrom, floorsLength = list()
  each(floorsFrom, floorsLength, function(first, final) redis.call('ZADD', floors, 'NX', unpack(ARGV, first, final)) end)
  write('HSET', pending, list())
  write('HDEL', pending, list())
  while at <= last do
    local conversation, entries = conversations .. ARGV[at], tonumber(ARGV[at + 1])
    write('RPUSH', conversation, at + 2, entries)
    at = at + 2 + entries
  end
  -- What was archived and has not moved since needs no mail any more; what has ended leaves a summary only.
  for index = archivedFrom, archivedFrom + 4 * archived - 1, 4 do
    local session, version, summary, floor = unpack(ARGV, index, index + 3)
    if (redis.call('HGET', versions, session) or '') == version then
      redis.call('ZREM', floors, session)
      if summary ~= '' then
        redis.call('HDEL', records, session)
        redis.call('HDEL', versions, session)
        redis.call('ZREM', wakes, session)
        redis.call('DEL', conversations .. session)
        redis.call('LPUSH', recent, summary)
        redis.call('LTRIM', recent, 0, tonumber(recentKept) - 1)
      end
    elseif floor ~= '' and redis.call('ZSCORE', floors, session) then
      redis.call('ZADD', floors, floor, session)
    end
  end
  return 'OK'
end

local answers, key, from = {}, 0, 1
while from <= #ARGV do
  local last = from + tonumber(ARGV[from])
  local isDone, answer = pcall(commit, key, from + 1, last)
  answers[#answers + 1] = isDone and answer or 'ERROR ' .. tostring(type(answer) == 'table' and answer.err or answer)
  key, from = key + 9, last + 1
end
return answers
