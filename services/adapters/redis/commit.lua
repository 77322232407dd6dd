-- commit: store the steps of many sessions, of one shard or of several, each once, only for the
-- owner of its shard.
--
-- For each shard KEYS
--       1 owner  2 position  3 records  4 versions  5 pending  6 outbox  7 wakes  8 floors
--       9 recent, then the conversations: of sessions with new entries, of sessions that are dropped
-- and in ARGV the number of its arguments, then these:
--       number of its keys, owner token, position expected, position after, recent sessions kept,
--       outbox id or '', outbox body,
--       n, then n outbox ids that are settled,
--       n, then n archived sessions: session, version, summary or '', floor that remains or '',
--       n, then n sessions, n versions expected, n times (session, version after),
--          n times (session, record),
--       then five lists, each with its length first: wakes (time, session), sessions without a wake,
--          floors (sequence, session), pending (id, body), resolved ids,
--       then to the end, for each conversation: entries before, n, n entries
-- Returns for each shard OK, FENCED (another owns the shard), STALE (position, a version or a
-- conversation is not as expected), or ERROR and what Redis said.
-- Promise: with FENCED and STALE nothing of that shard was written. What can be looked at is looked
-- at before the first write: types of keys, scores. Should a write fail all the same (a right that
-- is missing), the position was not moved: the log is read again from there, and what was written
-- twice is the same. No shard is held up by another.
-- What goes to one key is written with one command, whatever the number of sessions: half as many
-- commands, here and in the append-only file.
local at
-- A list with its length first: where it begins, and how long it is.
local function list()
  local from, length = at + 1, tonumber(ARGV[at])
  at = from + length
  return from, length
end
-- One command for a stretch of arguments, in pieces that fit Lua's stack (even: no pair is torn).
local piece = 4000
local function each(from, length, run)
  for first = from, from + length - 1, piece do
    run(first, math.min(first + piece, from + length) - 1)
  end
end
local function write(command, key, from, length)
  each(from, length, function(first, last) redis.call(command, key, unpack(ARGV, first, last)) end)
end
-- Every second one of a list is a score: a number, and finite.
local function mustBeScores(from, length)
  for index = from, from + length - 1, 2 do
    local score = tonumber(ARGV[index])
    if not score or score ~= score or score == math.huge or score == -math.huge then
      error('a score is ' .. ARGV[index])
    end
  end
end

-- One shard: its keys come after `key`, its arguments stand from `from` to `last`.
local function commit(key, from, last)
  local _, token, expected, after, recentKept, outboxId, outboxBody = unpack(ARGV, from, from + 6)
  local owner, position, records, versions, pending, outbox, wakes, floors, recent =
    unpack(KEYS, key + 1, key + 9)
  local held = redis.call('MGET', owner, position)
  if held[1] ~= token then return 'FENCED' end
  if (held[2] or '') ~= expected then return 'STALE' end

  at = from + 7
  local settledFrom, settled = list()
  local archivedFrom, archived = at + 1, tonumber(ARGV[at])
  for index = archivedFrom + 3, archivedFrom + 4 * archived - 1, 4 do
    if ARGV[index] ~= '' then mustBeScores(index, 1) end
  end
  at = archivedFrom + 4 * archived
  local sessionsFrom, sessions = list()
  local expectedFrom = at
  local isStale = false
  each(sessionsFrom, sessions, function(first, final)
    local stored = redis.call('HMGET', versions, unpack(ARGV, first, final))
    for index = first, final do
      if (stored[index - first + 1] or '0') ~= ARGV[index + sessions] then isStale = true end
    end
  end)
  if isStale then return 'STALE' end
  local versionsFrom = expectedFrom + sessions
  at = versionsFrom + 4 * sessions
  local wakesFrom, wakesLength = list()
  local restFrom, restLength = list()
  local floorsFrom, floorsLength = list()
  local pendingFrom, pendingLength = list()
  local resolvedFrom, resolvedLength = list()
  mustBeScores(wakesFrom, wakesLength)
  mustBeScores(floorsFrom, floorsLength)
  -- Look at every key before anything is written: one of another type fails here.
  if sessions + archived > 0 then
    redis.call('HLEN', records)
    redis.call('HLEN', versions)
  end
  if pendingLength + resolvedLength > 0 then redis.call('HLEN', pending) end
  if settled > 0 or outboxId ~= '' then redis.call('HLEN', outbox) end
  if wakesLength + restLength + archived > 0 then redis.call('ZCARD', wakes) end
  if floorsLength + archived > 0 then redis.call('ZCARD', floors) end
  if archived > 0 then redis.call('LLEN', recent) end
  local conversationsFrom, conversation = at, key + 9
  while at <= last do
    conversation = conversation + 1
    local before, length = tonumber(ARGV[at]), redis.call('LLEN', KEYS[conversation])
    if length < before then return 'STALE' end
    -- An earlier try failed after it had written these: they are written again.
    if length > before then
      if before == 0 then redis.call('DEL', KEYS[conversation])
      else redis.call('LTRIM', KEYS[conversation], 0, before - 1) end
    end
    at = at + 2 + tonumber(ARGV[at + 1])
  end

  at, conversation = conversationsFrom, key + 9
  while at <= last do
    conversation = conversation + 1
    local entries = tonumber(ARGV[at + 1])
    write('RPUSH', KEYS[conversation], at + 2, entries)
    at = at + 2 + entries
  end
  write('HSET', pending, pendingFrom, pendingLength)
  write('HDEL', pending, resolvedFrom, resolvedLength)
  write('ZADD', wakes, wakesFrom, wakesLength)
  write('ZREM', wakes, restFrom, restLength)
  each(floorsFrom, floorsLength, function(first, final)
    redis.call('ZADD', floors, 'NX', unpack(ARGV, first, final))
  end)
  if outboxId ~= '' then redis.call('HSET', outbox, outboxId, outboxBody) end
  write('HSET', records, versionsFrom + 2 * sessions, 2 * sessions)
  write('HSET', versions, versionsFrom, 2 * sessions)
  -- What was archived and has not moved since needs no mail any more; what has ended leaves a
  -- summary only.
  for index = archivedFrom, archivedFrom + 4 * archived - 1, 4 do
    local session, version, summary, floor = unpack(ARGV, index, index + 3)
    if summary ~= '' then conversation = conversation + 1 end
    if (redis.call('HGET', versions, session) or '') == version then
      redis.call('ZREM', floors, session)
      if summary ~= '' then
        -- Its version goes last: a commit that fails before comes here again.
        redis.call('LTRIM', recent, 0, tonumber(recentKept) - 2)
        redis.call('LPUSH', recent, summary)
        redis.call('ZREM', wakes, session)
        redis.call('DEL', KEYS[conversation])
        redis.call('HDEL', records, session)
        redis.call('HDEL', versions, session)
      end
    elseif floor ~= '' and redis.call('ZSCORE', floors, session) then
      redis.call('ZADD', floors, floor, session)
    end
  end
  write('HDEL', outbox, settledFrom, settled)
  redis.call('SET', position, after)
  return 'OK'
end

local answers, key, from = {}, 0, 1
while from <= #ARGV do
  local last = from + tonumber(ARGV[from])
  local isDone, answer = pcall(commit, key, from + 1, last)
  local why = tostring(type(answer) == 'table' and answer.err or answer)
  answers[#answers + 1] = isDone and answer or 'ERROR ' .. why
  key, from = key + tonumber(ARGV[from + 1]), last + 1
end
return answers
