/** The Lua of this adapter, and the ioredis client that knows it. Each script says what it promises. */
import { readFileSync } from 'node:fs';
import { Cluster, Redis, type RedisOptions } from 'ioredis';
import { messageOf, Unavailable } from '../../core/errors.ts';
import { parseRedisAddress, type RedisAddress } from './address.ts';
import type { Arguments } from './gathered-calls.ts';

const commit = readFileSync(new URL('./commit.lua', import.meta.url), 'utf8');

/** acquire: KEYS owner; ARGV token, ms, `<host>#`. A lease of the same host counts as free: it asks only for shards that it has let go, or lost with an earlier life. */
const acquire = `
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, #ARGV[3]) ~= ARGV[3] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`;

/** renew: KEYS owner, position; ARGV token, ms. Only its holder can prolong it. Returns 1 and the position, or 0. */
const renew = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 0 } end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return { 1, redis.call('GET', KEYS[2]) }`;

/** How long tries of a model call are remembered after the last, ms: whoever follows comes sooner. */
const triesMs = 600_000;

/**
 * renewClaim: KEYS claim, tries; ARGV holder, ms, tries known. One that the store has lost is its
 * holder's again, unless another has taken it. Returns 1 or 0, and the tries that are noted.
 */
const renewClaim = `
local held = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'GET', 'PX', ARGV[2])
local noted = tonumber(redis.call('GET', KEYS[2]) or 0)
if held and held ~= ARGV[1] then return { 0, noted } end
if held then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
local known = tonumber(ARGV[3])
if noted < known then redis.call('SET', KEYS[2], known, 'PX', ${triesMs}) end
return { 1, math.max(noted, known) }`;

/**
 * noteTry: KEYS pending, claim, tries; ARGV effect, holder, ms, tries known. Returns 'settled' when
 * nobody waits any more, 'held' by another, or 'noted'. Tries that the store lost are noted again.
 */
const noteTry = `
local noted = math.max(tonumber(redis.call('GET', KEYS[3]) or 0), tonumber(ARGV[4]))
redis.call('SET', KEYS[3], noted, 'PX', ${triesMs})
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 'settled' end
local held = redis.call('SET', KEYS[2], ARGV[2], 'NX', 'GET', 'PX', ARGV[3])
if held and held ~= ARGV[2] then return 'held' end
if held then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
redis.call('SET', KEYS[3], noted + 1, 'PX', ${triesMs})
return 'noted'`;

/** letGo: KEYS claim, tries; ARGV holder, tries that were not made or cost nothing. A gateway has no right to DEL. */
const letGo = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], 1)
local back = math.min(tonumber(redis.call('GET', KEYS[2]) or 0), tonumber(ARGV[2] or 1))
if back > 0 then redis.call('INCRBY', KEYS[2], -back) end
return 1`;

/** enter: KEYS places; ARGV holder, ms, where to begin. Returns the index of a place that was free or its own, or -1. */
const enter = `
local count = #KEYS
for offset = 0, count - 1 do
  local index = (tonumber(ARGV[3]) + offset) % count
  if redis.call('SET', KEYS[index + 1], ARGV[1], 'NX', 'PX', ARGV[2]) then return index end
  if redis.call('GET', KEYS[index + 1]) == ARGV[1] then
    redis.call('PEXPIRE', KEYS[index + 1], ARGV[2])
    return index
  end
end
return -1`;

/** stay: KEYS place; ARGV holder, ms. Only its holder can prolong it, or give it up. */
const stay = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1`;

/** release: KEYS owner; ARGV token. Only its holder can give it up. */
const release = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1`;

/** heartbeat: KEYS hosts; ARGV host, ms. By the store's own clock, so that hosts need not agree on theirs. */
const heartbeat = `
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZRANGE', KEYS[1], 0, -1)`;

/**
 * claimCalls: for each call KEYS pending, claim, conversation, tries; ARGV 5 (how many follow), effect,
 * holder, ms, first entry, entry after the last. Returns for each 'settled', 'held' by another, or the
 * tries that were noted before and then the entries (who holds it already holds it for longer), or
 * ERROR and what Redis said. No call is held up by another.
 */
const claimCalls = `
local function claim(key, from)
  local effect, holder, ms, first, after = unpack(ARGV, from, from + 4)
  if redis.call('HEXISTS', KEYS[key], effect) == 0 then return 'settled' end
  local held = redis.call('SET', KEYS[key + 1], holder, 'NX', 'GET', 'PX', ms)
  if held == holder then redis.call('PEXPIRE', KEYS[key + 1], ms)
  elseif held then return 'held' end
  local before = redis.call('SET', KEYS[key + 3], 1, 'NX', 'GET', 'PX', ${triesMs})
  if before then
    redis.call('INCRBY', KEYS[key + 3], 1)
    redis.call('PEXPIRE', KEYS[key + 3], ${triesMs})
  else before = '0' end
  if tonumber(after) <= tonumber(first) then return { before } end
  local entries = redis.call('LRANGE', KEYS[key + 2], first, tonumber(after) - 1)
  table.insert(entries, 1, before)
  return entries
end
local answers = {}
for index = 0, #KEYS / 4 - 1 do
  local isDone, answer = pcall(claim, 4 * index + 1, 6 * index + 2)
  answers[index + 1] = isDone and answer or 'ERROR ' .. tostring(type(answer) == 'table' and answer.err or answer)
end
return answers`;

/** discard: KEYS owner, versions, records, conversation, pending, wakes; ARGV token, session. All of it is gone but its floor; the log builds it again. */
const discard = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'FENCED' end
redis.call('HDEL', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('DEL', KEYS[4])
local prefix = ARGV[2] .. '_'
for _, id in ipairs(redis.call('HKEYS', KEYS[5])) do
  if string.sub(id, 1, #prefix) == prefix then redis.call('HDEL', KEYS[5], id) end
end
redis.call('ZREM', KEYS[6], ARGV[2])
return 'OK'`;

/** clear: KEYS owner, and a key; ARGV token. Removes the key: a position that cannot be read, or floors when the mail that they speak of is gone. */
const clear = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'FENCED' end
redis.call('DEL', KEYS[2])
return 'OK'`;

export interface ScriptedRedis extends Redis {
  understudyCommit(keyCount: number, keys: readonly string[], args: Arguments): Promise<string[]>;
  understudyAcquire(owner: string, token: string, ms: number, host: string): Promise<number>;
  understudyRenew(
    owner: string,
    position: string,
    token: string,
    ms: number,
  ): Promise<[number, (string | null)?]>;
  understudyRenewClaim(
    claim: string,
    tries: string,
    holder: string,
    ms: number,
    known: number,
  ): Promise<[number, number]>;
  understudyNoteTry(
    pending: string,
    claim: string,
    tries: string,
    effect: string,
    holder: string,
    ms: number,
    known: number,
  ): Promise<'settled' | 'held' | 'noted'>;
  understudyLetGo(claim: string, tries: string, holder: string, free: number): Promise<number>;
  understudyEnter(keyCount: number, ...keysAndArguments: (string | number)[]): Promise<number>;
  understudyStay(place: string, holder: string, durationMs: number): Promise<number>;
  understudyRelease(owner: string, token: string): Promise<number>;
  understudyHeartbeat(hosts: string, host: string, ms: number): Promise<string[]>;
  understudyClaim(
    keyCount: number,
    keys: readonly string[],
    args: Arguments,
  ): Promise<(string[] | string)[]>;
  understudyDiscard(
    owner: string,
    versions: string,
    records: string,
    conversation: string,
    pending: string,
    wakes: string,
    token: string,
    session: string,
  ): Promise<'OK' | 'FENCED'>;
  understudyClear(owner: string, key: string, token: string): Promise<'OK' | 'FENCED'>;
}

export interface RedisCredentials {
  readonly user?: string | undefined;
  readonly password?: string | undefined;
  /** Of the sentinels, where they want one. */
  readonly sentinelPassword?: string | undefined;
}

const silenceMs = 5_000; // a server that says nothing for so long is left
const retryStrategy = (times: number) => Math.min(50 * times, 500);

function clientOf(
  address: RedisAddress,
  options: RedisOptions,
  sentinelPassword: string | undefined,
): Redis | Cluster {
  if (address.kind === 'single') return new Redis(address.url, options);
  const nodes = [...address.nodes];
  if (address.kind === 'cluster') {
    const {
      lazyConnect = true,
      enableAutoPipelining = true,
      autoPipeliningIgnoredCommands = [],
      enableOfflineQueue = false,
      ...redisOptions
    } = options;
    // Here a time-out of the socket is not enough: what was asked of a node that has gone is asked of others up to sixteen times.
    return new Cluster(nodes, {
      redisOptions: { ...redisOptions, commandTimeout: silenceMs },
      lazyConnect,
      enableAutoPipelining,
      autoPipeliningIgnoredCommands,
      enableOfflineQueue,
      clusterRetryStrategy: retryStrategy,
      slotsRefreshInterval: 2_000,
    });
  }
  return new Redis({
    ...options,
    sentinels: nodes,
    name: address.master,
    sentinelRetryStrategy: retryStrategy,
    sentinelCommandTimeout: 2_000, // one that accepts connections and says nothing is passed over
    failoverDetector: true,
    enableTLSForSentinelMode: address.isEncrypted,
    ...(address.isEncrypted ? { sentinelTLS: {} } : {}),
    ...(sentinelPassword ? { sentinelPassword } : {}),
  });
}

/** Connect with our scripts. Nothing is queued while Redis is away: callers learn at once, and open their shards again. */
export function connectRedis(
  url: string,
  { user, password, sentinelPassword }: RedisCredentials = {},
): ScriptedRedis {
  const address = parseRedisAddress(url);
  const options: RedisOptions = {
    lazyConnect: true,
    enableAutoPipelining: true,
    // Gathered by their own means (gathered-calls.ts); and their first argument is no key, by which the package would choose a server of a cluster.
    autoPipeliningIgnoredCommands: ['understudyCommit', 'understudyClaim'],
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    // A server that has fallen silent is left, and its commands fail: its address may be another's by now, or nobody's. Not
    // `commandTimeout`: that is a timer and a slow object for each command.
    socketTimeout: silenceMs,
    retryStrategy,
    ...(user ? { username: user } : {}),
    ...(password ? { password } : {}),
    ...(address.kind !== 'single' && address.isEncrypted ? { tls: {} } : {}),
  };
  const redis = clientOf(address, options, sentinelPassword);
  redis.defineCommand('understudyCommit', { lua: commit });
  redis.defineCommand('understudyAcquire', { numberOfKeys: 1, lua: acquire });
  redis.defineCommand('understudyRenew', { numberOfKeys: 2, lua: renew });
  redis.defineCommand('understudyRenewClaim', { numberOfKeys: 2, lua: renewClaim });
  redis.defineCommand('understudyNoteTry', { numberOfKeys: 3, lua: noteTry });
  redis.defineCommand('understudyLetGo', { numberOfKeys: 2, lua: letGo });
  redis.defineCommand('understudyEnter', { lua: enter });
  redis.defineCommand('understudyStay', { numberOfKeys: 1, lua: stay });
  redis.defineCommand('understudyRelease', { numberOfKeys: 1, lua: release });
  redis.defineCommand('understudyHeartbeat', { numberOfKeys: 1, lua: heartbeat });
  redis.defineCommand('understudyClaim', { lua: claimCalls });
  redis.defineCommand('understudyDiscard', { numberOfKeys: 6, lua: discard });
  redis.defineCommand('understudyClear', { numberOfKeys: 2, lua: clear });
  // A cluster has the same commands; there each call is of one shard, and its keys lie under one hash tag.
  return redis as ScriptedRedis;
}

/**
 * Connect and wait until Redis answers, for 15 s at the most.
 *
 * @throws Unavailable when none does; Refused when the address does not parse
 */
export async function connectedRedis(
  url: string,
  credentials: RedisCredentials = {},
): Promise<ScriptedRedis> {
  const deadline = Date.now() + 15_000;
  for (;;) {
    const redis = connectRedis(url, credentials);
    // ioredis reports every failed try here; callers learn of it by the command that fails.
    redis.on('error', () => undefined);
    try {
      await redis.connect();
      await redis.ping();
      return redis;
    } catch (error) {
      redis.disconnect();
      if (Date.now() > deadline)
        throw new Unavailable(
          'REDIS_UNAVAILABLE',
          `no Redis answers at ${url.replace(/\/\/[^@]*@/, '//')} (${messageOf(error)})`,
          { cause: error },
        );
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
  }
}
