import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { memoryStore } from '../../services/adapters/memory/session-store.ts';
import { redisLeases } from '../../services/adapters/redis/leases.ts';
import { parsePosition, positionText } from '../../services/adapters/redis/position.ts';
import { connectedRedis } from '../../services/adapters/redis/scripts.ts';
import { redisModelCalls, redisSessionStore } from '../../services/adapters/redis/session-store.ts';
import type { EffectId, HostId, OwnerToken, SessionId, ShardId } from '../../services/core/ids.ts';
import { limits } from '../../services/core/limits.ts';
import type { PendingEffect } from '../../services/core/session/effects.ts';
import { keysOf } from '../../services/core/wire/keys.ts';
import type { Lease, Leases } from '../../services/ports/leases.ts';
import type {
  Commit,
  ModelCalls,
  SessionCommit,
  SessionStore,
} from '../../services/ports/session-store.ts';
import { eventually } from '../support/eventually.ts';
import { startCluster, startSlottedServer } from '../support/redis-topologies.ts';
import { startServers } from '../support/servers.ts';
import { sessionCommit } from '../support/sessions.ts';
import { isUnit } from '../support/unit.ts';

/** Claims that answer with their entries alone. */
const plain = (calls: ModelCalls) => ({
  claim: async (...call: Parameters<ModelCalls['claim']>) => {
    const claim = await calls.claim(...call);
    return typeof claim === 'string' ? claim : claim.entries;
  },
});

let shardCount = 100;
/** A position after so many commits, of a log that was made at 7. */
const at = (sequence: number, commits = sequence) => ({
  position: { incarnation: 0, sequence, index: 0 },
  commits,
  log: 7,
  queue: 9,
});

function describeStore(
  name: string,
  open: () => Promise<{
    store: SessionStore;
    leases: Leases;
    calls: ModelCalls;
    close: () => Promise<void>;
  }>,
) {
  describe.skipIf(isUnit && name !== 'memory')(
    `session store, leases and model calls: ${name}`,
    () => {
      let world: Awaited<ReturnType<typeof open>>;
      beforeAll(async () => {
        world = await open();
      });
      afterAll(() => world.close());

      const host = (id = 'host-a') => id as HostId;
      const lease = async (id = 'host-a', ms = 60_000): Promise<Lease> => {
        shardCount += 1;
        return (await world.leases.acquire(shardCount as ShardId, host(id), 'boot1', ms))!;
      };
      const session = (more: Partial<SessionCommit> = {}) =>
        sessionCommit({ session: 's1' as SessionId, record: '{"n":1}', ...more });
      const commit = (more: Partial<Commit> = {}): Commit => ({
        from: undefined,
        to: at(1),
        sessions: [session()],
        settled: [],
        archived: [],
        ...more,
      });
      const effect = (id: string): PendingEffect =>
        ({
          kind: 'callModel',
          id: id as EffectId,
          tenant: 'acme',
          session: 's1',
          agent: 'desk',
          revision: 'r',
          deadlineAt: 1,
          from: 0,
          to: 1,
          purpose: 'turn',
          outputTokensMax: 1,
          tokensReserved: 1,
        }) as PendingEffect;
      const pendingOf = (id: string) => ({ id: id as EffectId, body: JSON.stringify(effect(id)) });

      describe('commit', () => {
        test('stores record, entries, pending effects, outbox and position at once', async () => {
          const { shard, token } = await lease();
          const entries = [JSON.stringify({ role: 'user', content: 'hi' })];
          const result = await world.store.commit(
            shard,
            token,
            commit({
              sessions: [session({ entries, pending: [pendingOf('e1')], wakeAt: 50, floor: 1 })],
              outbox: { id: 1, body: 'out' },
            }),
          );

          expect(result).toBe('committed');
          expect(await world.store.load(shard, 's1' as SessionId)).toBe('{"n":1}');
          expect(await world.store.conversation(shard, 's1' as SessionId, 0, 1)).toEqual([
            { role: 'user', content: 'hi' },
          ]);
          expect(await world.store.pending(shard)).toEqual([effect('e1')]);
          expect(await world.store.open(shard)).toEqual({
            at: at(1),
            outbox: [{ id: 1, body: 'out' }],
            floors: new Map([['s1', 1]]),
          });
          expect(await world.store.due(shard, 49, 10)).toEqual([]);
          expect(await world.store.due(shard, 50, 10)).toEqual(['s1']);
          expect(await world.store.lowest(shard)).toEqual({ applied: 1, floor: 1 });
        });

        test('another owner token writes nothing', async () => {
          const { shard } = await lease();
          const zombie = 'host-z#boot#1' as OwnerToken;

          expect(await world.store.commit(shard, zombie, commit())).toBe('fenced');
          expect((await world.store.open(shard)).at).toBeUndefined();
          expect(await world.store.load(shard, 's1' as SessionId)).toBeUndefined();
        });

        test('an owner whose lease another took over is fenced, its lost commit included', async () => {
          const old = await lease('host-a');
          const next = (await world.leases.acquire(old.shard, host('host-a'), 'boot2', 60_000))!;

          expect(next.token).not.toBe(old.token);
          expect(await world.store.commit(old.shard, old.token, commit())).toBe('fenced');
          expect(await world.store.commit(old.shard, next.token, commit())).toBe('committed');
        });

        test('a position that is not the expected one writes nothing', async () => {
          const { shard, token } = await lease();
          await world.store.commit(shard, token, commit());

          expect(
            await world.store.commit(
              shard,
              token,
              commit({ sessions: [session({ session: 's2' as SessionId })] }),
            ),
          ).toBe('stale');
          expect(await world.store.load(shard, 's2' as SessionId)).toBeUndefined();
        });

        test('a commit that moved no position is missed all the same when the store has lost it', async () => {
          const { shard, token } = await lease();
          await world.store.commit(shard, token, commit());

          expect(
            await world.store.commit(
              shard,
              token,
              commit({ from: at(1, 2), to: at(2, 3), sessions: [] }),
            ),
          ).toBe('stale');
        });

        test('a first commit that moves no position is followed by others', async () => {
          const { shard, token } = await lease();
          const start = at(0, 1);
          expect(await world.store.commit(shard, token, commit({ to: start }))).toBe('committed');
          expect((await world.store.open(shard)).at).toEqual(start);
          expect(
            await world.store.commit(
              shard,
              token,
              commit({ from: start, to: at(1, 2), sessions: [] }),
            ),
          ).toBe('committed');
        });

        test('one session with an unexpected version refuses the whole batch', async () => {
          const { shard, token } = await lease();
          await world.store.commit(shard, token, commit());
          const batch = commit({
            from: at(1),
            to: at(2),
            sessions: [
              session({ session: 's2' as SessionId }),
              session({ expectedVersion: 0, version: 1 }),
            ],
          });

          expect(await world.store.commit(shard, token, batch)).toBe('stale');
          expect(await world.store.load(shard, 's2' as SessionId)).toBeUndefined();
          expect((await world.store.open(shard)).at).toEqual(at(1));
        });

        test('commits of several shards in one turn are judged each for itself', async () => {
          const leases = [await lease(), await lease(), await lease(), await lease()];
          const [good, fenced, stale, alsoGood] = leases.map(({ shard }) => shard);
          const zombie = 'host-z#boot#1' as OwnerToken;
          const full = commit({
            sessions: [
              session({
                entries: ['{"role":"user","content":"hi"}'],
                pending: [pendingOf('s1_1_0')],
                wakeAt: 5,
                floor: 3,
              }),
              session({ session: 's2' as SessionId }),
            ],
            outbox: { id: 4, body: 'out' },
          });

          const results = await Promise.all(
            leases.map(({ shard, token }) =>
              world.store.commit(
                shard,
                shard === fenced ? zombie : token,
                shard === stale ? { ...full, from: at(9) } : full,
              ),
            ),
          );

          expect(results).toEqual(['committed', 'fenced', 'stale', 'committed']);
          for (const shard of [good!, alsoGood!]) {
            expect(await world.store.open(shard)).toEqual({
              at: at(1),
              outbox: [{ id: 4, body: 'out' }],
              floors: new Map([['s1', 3]]),
            });
            expect(await world.store.load(shard, 's2' as SessionId)).toBe('{"n":1}');
            expect(await world.store.conversation(shard, 's1' as SessionId, 0, 1)).toEqual([
              { role: 'user', content: 'hi' },
            ]);
            expect((await world.store.pending(shard)).map(({ id }) => id)).toEqual(['s1_1_0']);
            expect(await world.store.due(shard, 10, 10)).toEqual(['s1']);
          }
          for (const shard of [fenced!, stale!]) {
            expect((await world.store.open(shard)).at).toBeUndefined();
            expect(await world.store.load(shard, 's1' as SessionId)).toBeUndefined();
          }
        });

        test('settling removes outbox entries, resolving removes pending effects, a later step overwrites the record', async () => {
          const { shard, token } = await lease();
          await world.store.commit(
            shard,
            token,
            commit({
              sessions: [session({ pending: [pendingOf('e1'), pendingOf('e2')], wakeAt: 5 })],
              outbox: { id: 1, body: 'one' },
            }),
          );
          await world.store.commit(
            shard,
            token,
            commit({
              from: at(1),
              to: at(2),
              sessions: [
                session({ expectedVersion: 1, version: 3, record: '{"n":3}', resolved: ['e1'] }),
              ],
              settled: [1],
            }),
          );

          expect((await world.store.open(shard)).outbox).toEqual([]);
          expect((await world.store.pending(shard)).map(({ id }) => id)).toEqual(['e2']);
          expect(await world.store.load(shard, 's1' as SessionId)).toBe('{"n":3}');
          expect(await world.store.due(shard, 100, 10)).toEqual([]);
        });

        test('an effect that is wanted and answered within one commit is not pending after it', async () => {
          const { shard, token } = await lease();
          await world.store.commit(
            shard,
            token,
            commit({ sessions: [session({ pending: [pendingOf('e1')], resolved: ['e1'] })] }),
          );

          expect(await world.store.pending(shard)).toEqual([]);
        });

        test('an archived session keeps its record and loses its floor; one that ended leaves a summary', async () => {
          const { shard, token } = await lease();
          const two = session({
            session: 's2' as SessionId,
            floor: 1,
            entries: [JSON.stringify({ role: 'user', content: 'x' })],
          });
          await world.store.commit(
            shard,
            token,
            commit({ sessions: [session({ floor: 1 }), two] }),
          );
          await world.store.commit(
            shard,
            token,
            commit({
              from: at(1),
              to: at(1, 2),
              sessions: [],
              archived: [
                { session: 's1' as SessionId, version: 1, summary: undefined, floor: undefined },
                { session: 's2' as SessionId, version: 1, summary: '{"s":2}', floor: undefined },
              ],
            }),
          );

          expect((await world.store.open(shard)).floors).toEqual(new Map());
          expect(await world.store.load(shard, 's1' as SessionId)).toBe('{"n":1}');
          expect(await world.store.load(shard, 's2' as SessionId)).toBeUndefined();
          expect(await world.store.conversation(shard, 's2' as SessionId, 0, 1)).toEqual([]);
          expect(await world.store.recent(shard)).toEqual(['{"s":2}']);
        });

        test('a session that moved on after its baseline keeps a floor for what came since', async () => {
          const { shard, token } = await lease();
          await world.store.commit(
            shard,
            token,
            commit({ sessions: [session({ version: 2, floor: 1 })], to: at(2) }),
          );
          await world.store.commit(
            shard,
            token,
            commit({
              from: at(2),
              to: at(3),
              sessions: [session({ expectedVersion: 2, version: 3, floor: 1 })],
              archived: [{ session: 's1' as SessionId, version: 2, summary: undefined, floor: 3 }],
            }),
          );

          expect((await world.store.open(shard)).floors).toEqual(new Map([['s1', 3]]));
          expect(await world.store.lowest(shard)).toEqual({ applied: 3, floor: 3 });
        });

        test('records can be listed, and one that is broken can be discarded by its owner only', async () => {
          const { shard, token } = await lease();
          await world.store.commit(
            shard,
            token,
            commit({ sessions: [session(), session({ session: 's2' as SessionId })] }),
          );
          const listed = async () => {
            const found: string[] = [];
            for await (const { session: id } of world.store.records(shard)) found.push(id);
            return found.sort();
          };
          expect(await listed()).toEqual(['s1', 's2']);
          expect(await world.store.discard(shard, 'x#y#1' as OwnerToken, 's1' as SessionId)).toBe(
            'fenced',
          );
          expect(await world.store.discard(shard, token, 's1' as SessionId)).toBe('committed');
          expect(await listed()).toEqual(['s2']);
        });

        test('discarding takes the pending effects and the wake of that session with it, and of no other', async () => {
          const { shard, token } = await lease();
          const mine = session({ pending: [pendingOf('s1_1_0')], wakeAt: 1 });
          await world.store.commit(
            shard,
            token,
            commit({
              sessions: [
                mine,
                session({
                  session: 's10' as SessionId,
                  pending: [pendingOf('s10_1_0')],
                  wakeAt: 1,
                }),
              ],
            }),
          );
          await world.store.discard(shard, token, 's1' as SessionId);

          expect((await world.store.pending(shard)).map(({ id }) => id)).toEqual(['s10_1_0']);
          expect(await world.store.due(shard, 10, 10)).toEqual(['s10']);
        });

        test('a position is forgotten by its owner only, and nothing else with it', async () => {
          const { shard, token } = await lease();
          await world.store.commit(shard, token, commit({ outbox: { id: 1, body: 'out' } }));

          expect(await world.store.clearPosition(shard, 'x#y#1' as OwnerToken)).toBe('fenced');
          expect((await world.store.open(shard)).at).toEqual(at(1));
          expect(await world.store.clearPosition(shard, token)).toBe('committed');

          expect(await world.store.open(shard)).toEqual({
            at: undefined,
            outbox: [{ id: 1, body: 'out' }],
            floors: new Map(),
          });
          expect(await world.store.load(shard, 's1' as SessionId)).toBe('{"n":1}');
          expect(
            await world.store.commit(
              shard,
              token,
              commit({ to: at(2), sessions: [session({ expectedVersion: 1, version: 2 })] }),
            ),
          ).toBe('committed');
        });

        test('floors are cleared by the owner only', async () => {
          const { shard, token } = await lease();
          await world.store.commit(shard, token, commit({ sessions: [session({ floor: 1 })] }));
          expect(await world.store.clearFloors(shard, 'x#y#1' as OwnerToken)).toBe('fenced');
          expect(await world.store.clearFloors(shard, token)).toBe('committed');
          expect((await world.store.open(shard)).floors).toEqual(new Map());
        });
      });

      test('the number of shards is fixed by whoever asks first', async () => {
        expect(await world.store.fixShards(16)).toBe(16);
        expect(await world.store.fixShards(32)).toBe(16);
      });

      describe('leases', () => {
        test('of many callers one holds a shard', async () => {
          const shard = ++shardCount as ShardId;
          const won = await Promise.all(
            Array.from({ length: 20 }, (_, index) =>
              world.leases.acquire(shard, host(`host-${index}`), 'b', 60_000),
            ),
          );
          expect(won.filter(Boolean)).toHaveLength(1);
        });

        test('a lease that is not renewed is free after its time, one that is renewed is not', async () => {
          const short = await lease('host-a', 150);
          expect(
            await world.leases.acquire(short.shard, host('host-b'), 'b', 1_000),
          ).toBeUndefined();
          expect((await world.leases.renew(short, 400)).isOurs).toBe(true);
          const taken = await eventually(() =>
            world.leases.acquire(short.shard, host('host-b'), 'b', 60_000),
          );
          expect(taken.host).toBe('host-b');
          expect((await world.leases.renew(short, 1_000)).isOurs).toBe(false);
        });

        test('released, it is free at once; releasing what is another’s does nothing', async () => {
          const held = await lease('host-a');
          await world.leases.release(held);
          const next = (await world.leases.acquire(held.shard, host('host-b'), 'b', 60_000))!;
          await world.leases.release(held);
          expect((await world.leases.owners(held.shard + 1)).get(held.shard)).toBe('host-b');
          expect((await world.leases.renew(next, 1_000)).isOurs).toBe(true);
        });

        test('a runtime that comes back under its own name takes its shard at once, with a new token', async () => {
          const before = await lease('host-a');
          const after = await world.leases.acquire(
            before.shard,
            host('host-a'),
            'another-life',
            60_000,
          );
          expect(after?.token).toBeDefined();
          expect(after?.token).not.toBe(before.token);
          expect((await world.leases.renew(before, 1_000)).isOurs).toBe(false);
        });

        test('hosts that say so are alive, those that fall silent are not', async () => {
          await world.leases.heartbeat(host('loud'), 60_000);
          expect(await world.leases.heartbeat(host('short'), 100)).toEqual(
            expect.arrayContaining(['loud', 'short']),
          );
          await eventually(
            async () =>
              !(await world.leases.heartbeat(host('loud'), 60_000)).includes(host('short')),
          );
          await world.leases.leave(host('loud'));
          expect(await world.leases.heartbeat(host('other'), 1_000)).not.toContain('loud');
        });
      });

      describe('model calls', () => {
        const prepared = async () => {
          const { shard, token } = await lease();
          const entries = ['a', 'b', 'c'].map((content) =>
            JSON.stringify({ role: 'user', content }),
          );
          await world.store.commit(
            shard,
            token,
            commit({ sessions: [session({ entries, pending: [pendingOf('e1')] })] }),
          );
          return {
            shard,
            token,
            call: { shard, session: 's1' as SessionId, effect: 'e1' as EffectId, from: 0, to: 3 },
          };
        };

        test('one gateway claims a call and reads its prompt; another finds it held until the claim runs out', async () => {
          const { call } = await prepared();
          expect(await plain(world.calls).claim(call, 'g1', 200)).toHaveLength(3);
          expect(await plain(world.calls).claim(call, 'g2', 200)).toBe('held');
          await eventually(async () =>
            Array.isArray(await plain(world.calls).claim(call, 'g2', 60_000)),
          );
          expect(await plain(world.calls).claim(call, 'g1', 200)).toBe('held');
        });

        test('who holds a claim and comes again holds it for longer', async () => {
          const { call } = await prepared();
          expect(await world.calls.claim(call, 'g1', 150)).toMatchObject({ triesBefore: 0 });
          expect(await world.calls.claim(call, 'g1', 60_000)).toMatchObject({ triesBefore: 1 });
          await new Promise((resolve) => setTimeout(resolve, 250));
          expect(await plain(world.calls).claim(call, 'g2', 200)).toBe('held');
        });

        test('a claim that the store has lost is its holder’s again when it is renewed, unless another has taken it', async () => {
          const { call } = await prepared();
          expect(await world.calls.claim(call, 'g1', 50)).toMatchObject({ entries: { length: 3 } });
          await new Promise((resolve) => setTimeout(resolve, 100));
          expect(await world.calls.renew(call.shard, call.effect, 'g1', 400, 1)).toEqual({
            isOurs: true,
            tries: 1,
          });
          expect(await plain(world.calls).claim(call, 'g2', 60_000)).toBe('held');
          await eventually(
            async () => (await plain(world.calls).claim(call, 'g2', 60_000)) !== 'held',
          );
          // Each try is noted, whoever made it; and again, where the store has lost what was noted.
          const note = (holder: string, known: number) =>
            world.calls.noteTry(call.shard, call.effect, holder, 60_000, known);
          expect(await note('g2', 2)).toBe('noted');
          expect(await note('g1', 2)).toBe('held');
          expect(await world.calls.renew(call.shard, call.effect, 'g1', 60_000, 1)).toEqual({
            isOurs: false,
            tries: 3,
          });
          expect(await world.calls.renew(call.shard, call.effect, 'g2', 60_000, 7)).toEqual({
            isOurs: true,
            tries: 7,
          });
          expect(await plain(world.calls).claim(call, 'g1', 60_000)).toBe('held');
        });

        test('what is pending is read however deep its arguments are: depth is judged at the doors', async () => {
          const { shard, token } = await lease();
          const deep = JSON.parse(
            `{"tree":${'['.repeat(limits.nestingMax)}${']'.repeat(limits.nestingMax)}}`,
          ) as object;
          const body = JSON.stringify({ ...JSON.parse(pendingOf('e1').body), arguments: deep });
          await world.store.commit(
            shard,
            token,
            commit({ sessions: [session({ pending: [{ id: 'e1' as EffectId, body }] })] }),
          );
          expect(await world.store.pending(shard)).toHaveLength(1);
        });

        test('a further try is noted for who holds the claim, while somebody waits', async () => {
          const { call } = await prepared();
          const note = (effect: EffectId, known: number) =>
            world.calls.noteTry(call.shard, effect, 'g1', 60_000, known);
          // The store has lost the claim, or it is over and nobody took it.
          expect(await note(call.effect, 2)).toBe('noted');
          expect(await plain(world.calls).claim(call, 'g2', 60_000)).toBe('held');
          expect(await world.calls.renew(call.shard, call.effect, 'g1', 60_000, 1)).toEqual({
            isOurs: true,
            tries: 3,
          });
          expect(await note('gone' as EffectId, 1)).toBe('settled');
        });

        test('a call that nobody waits for is settled', async () => {
          const { call } = await prepared();
          expect(
            await plain(world.calls).claim({ ...call, effect: 'gone' as EffectId }, 'g1', 200),
          ).toBe('settled');
        });

        test('calls that are claimed in one turn are judged each for itself', async () => {
          const [first, second, held] = [await prepared(), await prepared(), await prepared()];
          await plain(world.calls).claim(held.call, 'g2', 60_000);
          const answers = await Promise.all([
            plain(world.calls).claim(first.call, 'g1', 60_000),
            plain(world.calls).claim(held.call, 'g1', 60_000),
            plain(world.calls).claim({ ...first.call, effect: 'gone' as EffectId }, 'g1', 60_000),
            plain(world.calls).claim({ ...second.call, from: 1, to: 2 }, 'g1', 60_000),
          ]);
          expect(answers).toMatchObject([
            [{ content: 'a' }, { content: 'b' }, { content: 'c' }],
            'held',
            'settled',
            [{ content: 'b' }],
          ]);
          expect(await plain(world.calls).claim(second.call, 'g2', 60_000)).toBe('held');
        });

        test('a part of the conversation is addressed by from and to, and a longer one is read on', async () => {
          const { call, shard, token } = await prepared();
          expect(await plain(world.calls).claim({ ...call, to: 2 }, 'g1', 60_000)).toMatchObject([
            { content: 'a' },
            { content: 'b' },
          ]);
          await world.store.commit(
            shard,
            token,
            commit({
              from: at(1),
              to: at(2),
              sessions: [
                session({
                  expectedVersion: 1,
                  version: 2,
                  entriesBefore: 3,
                  entries: [JSON.stringify({ role: 'user', content: 'd' })],
                }),
              ],
            }),
          );
          expect(await plain(world.calls).claim({ ...call, to: 4 }, 'g1', 60_000)).toMatchObject([
            { content: 'a' },
            { content: 'b' },
            { content: 'c' },
            { content: 'd' },
          ]);
          expect(
            await plain(world.calls).claim({ ...call, from: 2, to: 4 }, 'g1', 60_000),
          ).toMatchObject([{ content: 'c' }, { content: 'd' }]);
        });
      });
    },
  );
}

describeStore('memory', async () => {
  const store = memoryStore({ now: () => Date.now() });
  return { store, leases: store.leases, calls: store.calls, close: async () => undefined };
});
describeStore('redis', async () => {
  const servers = await startServers();
  const { redis } = servers.connections;
  return {
    store: redisSessionStore(redis),
    leases: redisLeases(redis),
    calls: redisModelCalls(redis),
    close: () => servers.stop(),
  };
});

describe.skipIf(isUnit)('what is asked of Redis in one turn', () => {
  let servers: Awaited<ReturnType<typeof startServers>>;
  let store: SessionStore;
  let leases: Lease[];
  const session = (id: string) =>
    sessionCommit({
      session: id as SessionId,
      pending: [{ id: `${id}_1_0` as EffectId, body: '{}' }],
    });
  const commitAll = (sessions: readonly SessionCommit[]) =>
    Promise.allSettled(
      leases.map(({ shard, token }) =>
        store.commit(shard, token, {
          from: undefined,
          to: at(1),
          sessions,
          settled: [],
          archived: [],
        }),
      ),
    );
  const scriptCalls = async () =>
    Number(
      /cmdstat_evalsha:calls=(\d+)/.exec(
        await servers.connections.redis.info('commandstats'),
      )?.[1] ?? 0,
    );

  beforeEach(async () => {
    servers = await startServers();
    const { redis } = servers.connections;
    store = redisSessionStore(redis);
    leases = (
      await Promise.all(
        [1, 2, 3].map((shard) =>
          redisLeases(redis).acquire(shard as ShardId, 'host' as HostId, 'boot', 60_000),
        ),
      )
    ).map((lease) => lease!);
    // The server learns the script: it is asked by its hash from then on.
    const other = (await redisLeases(redis).acquire(
      4 as ShardId,
      'host' as HostId,
      'boot',
      60_000,
    ))!;
    await store.commit(other.shard, other.token, {
      from: undefined,
      to: at(1),
      sessions: [],
      settled: [],
      archived: [],
    });
  });
  afterEach(() => servers.stop());

  test('commits are one call of the script', async () => {
    const before = await scriptCalls();
    expect((await commitAll([session('s1')])).map(({ status }) => status)).toEqual([
      'fulfilled',
      'fulfilled',
      'fulfilled',
    ]);
    expect((await scriptCalls()) - before).toBe(1);
  });

  test('commits are several calls when they are large, so that none holds up the server for long', async () => {
    const before = await scriptCalls();
    await commitAll(Array.from({ length: 1_000 }, (_, index) => session(`s${index}`)));
    expect((await scriptCalls()) - before).toBe(3);
    expect(await store.load(3 as ShardId, 's999' as SessionId)).toBe('{}');
  });

  test('a position that does not parse is told as a problem, with outbox and floors as they are', async () => {
    const { shard, token } = leases[1]!;
    await store.commit(shard, token, {
      from: undefined,
      to: at(1),
      sessions: [{ ...session('s1'), floor: 3 }],
      outbox: { id: 1, body: 'out' },
      settled: [],
      archived: [],
    });
    await servers.connections.redis.set(keysOf('understudy', shard).position, 'no position');

    expect(await store.open(shard)).toEqual({
      at: undefined,
      problem: expect.stringContaining('does not parse'),
      outbox: [{ id: 1, body: 'out' }],
      floors: new Map([['s1', 3]]),
    });
    await expect(store.lowest(shard)).rejects.toMatchObject({ code: 'POSITION_POISONED' });
  });

  test('claims of model calls are one call, unless they read more than 512 entries together', async () => {
    const calls = redisModelCalls(servers.connections.redis);
    const claim = (effect: string, to = 0) =>
      plain(calls).claim(
        {
          shard: 1 as ShardId,
          session: 's1' as SessionId,
          effect: effect as EffectId,
          from: 0,
          to,
        },
        'g',
        1_000,
      );
    await claim('first');
    const before = await scriptCalls();
    await Promise.all(Array.from({ length: 32 }, (_, index) => claim(`e${index}`)));
    expect((await scriptCalls()) - before).toBe(1);
    await Promise.all(Array.from({ length: 4 }, (_, index) => claim(`e${index}`, 300)));
    expect((await scriptCalls()) - before).toBe(5);
  });

  test('what is claimed while a call is under way goes with the next', async () => {
    const calls = redisModelCalls(servers.connections.redis);
    const claim = (effect: string) =>
      plain(calls).claim(
        {
          shard: 1 as ShardId,
          session: 's1' as SessionId,
          effect: effect as EffectId,
          from: 0,
          to: 0,
        },
        'g',
        1_000,
      );
    await claim('first');
    const before = await scriptCalls();
    const claims = [claim('e1')];
    for (const effect of ['e2', 'e3', 'e4']) {
      await Promise.resolve();
      await new Promise(process.nextTick);
      claims.push(claim(effect));
    }
    expect(await Promise.all(claims)).toEqual(['settled', 'settled', 'settled', 'settled']);
    expect((await scriptCalls()) - before).toBe(2);
  });

  test('a claim does not fail with another whose keys are poisoned', async () => {
    await commitAll([session('s1')]);
    await servers.connections.redis.set(keysOf('understudy', 2).conversation('s1'), 'no list');
    const calls = redisModelCalls(servers.connections.redis);
    const claim = (shard: number) =>
      plain(calls).claim(
        {
          shard: shard as ShardId,
          session: 's1' as SessionId,
          effect: 's1_1_0' as EffectId,
          from: 0,
          to: 1,
        },
        'g',
        1_000,
      );

    const results = await Promise.allSettled([
      claim(2),
      plain(calls).claim(
        {
          shard: 1 as ShardId,
          session: 's1' as SessionId,
          effect: 's1_1_0' as EffectId,
          from: 0,
          to: 0,
        },
        'g',
        1_000,
      ),
    ]);

    expect((results[0] as PromiseRejectedResult).reason).toMatchObject({
      code: 'STORE_UNAVAILABLE',
      message: expect.stringContaining('WRONGTYPE'),
    });
    expect(results[1]).toEqual({ status: 'fulfilled', value: [] });
  });

  test('commits with long records are several calls', async () => {
    const before = await scriptCalls();
    await commitAll(
      Array.from({ length: 20 }, (_, index) => ({
        ...session(`s${index}`),
        record: JSON.stringify('x'.repeat(150_000)),
      })),
    );
    expect((await scriptCalls()) - before).toBe(3);
  });

  test('a commit does not fail with that of a shard whose keys are poisoned', async () => {
    await servers.connections.redis.set(keysOf('understudy', 2).pending, 'no hash');

    const results = await commitAll([session('s1')]);

    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect((results[1] as PromiseRejectedResult).reason).toMatchObject({
      code: 'STORE_UNAVAILABLE',
      message: expect.stringContaining('WRONGTYPE'),
    });
    expect(await store.load(3 as ShardId, 's1' as SessionId)).toBe('{}');
  });
});
test.each([
  '',
  '   ',
  'no position',
  '0:1:0:1:7',
  '0:-5:0:1:7:9',
  '0:1e3:0:1:7:9',
  '0:1:0:1:7:9:4:5',
])('a position that reads %j is refused', (text) => {
  expect(() => parsePosition(text)).toThrow(expect.objectContaining({ code: 'POSITION_POISONED' }));
});

// A managed service, a proxy: one address, and behind it a cluster that takes no script with keys of two slots.
test('behind one address there may be slots: what the server refuses together is asked again one by one, and from then on', async () => {
  const server = await startSlottedServer();
  const redis = await connectedRedis(server.url);
  try {
    const [store, leases, calls] = [
      redisSessionStore(redis),
      redisLeases(redis),
      redisModelCalls(redis),
    ];
    const held = await Promise.all(
      [1, 2, 3].map((shard) => leases.acquire(shard as ShardId, 'host' as HostId, 'boot', 60_000)),
    );
    for (let commits = 1; commits <= 3; commits += 1) {
      const commit: Commit = {
        from: commits === 1 ? undefined : at(commits - 1),
        to: at(commits),
        sessions: [],
        settled: [],
        archived: [],
      };
      expect(
        await Promise.all(held.map((lease) => store.commit(lease!.shard, lease!.token, commit))),
      ).toEqual(['committed', 'committed', 'committed']);
    }
    const claim = (shard: number) =>
      plain(calls).claim(
        {
          shard: shard as ShardId,
          session: 's1' as SessionId,
          effect: 'e' as EffectId,
          from: 0,
          to: 1,
        },
        'g',
        1_000,
      );
    for (let turn = 0; turn < 2; turn += 1)
      expect(await Promise.all([1, 2, 3].map(claim))).toEqual(['settled', 'settled', 'settled']);
    // Once for commits, once for claims: all later ones went alone.
    expect(await redis.info('errorstats')).toContain('errorstat_CROSSSLOT:count=2\r');
  } finally {
    redis.disconnect();
    await server.stop();
  }
});

describeStore('a Redis cluster', async () => {
  const topology = await startCluster();
  const redis = await connectedRedis(topology.url);
  const close = async () => {
    redis.disconnect();
    await topology.stop();
  };
  return {
    store: redisSessionStore(redis),
    leases: redisLeases(redis),
    calls: redisModelCalls(redis),
    close,
  };
});

test.each([
  [
    'says of when its mail is',
    { position: { incarnation: 1, sequence: 2, index: 3 }, commits: 4, log: 5, queue: 6, at: 7 },
    '1:2:3:4:5:6:7',
  ],
  [
    'does not, as earlier versions wrote it',
    { position: { incarnation: 1, sequence: 2, index: 3 }, commits: 4, log: 5, queue: 6 },
    '1:2:3:4:5:6',
  ],
])('a position that %s is read as it was written', (_, position, text) => {
  expect(positionText(position)).toBe(text);
  expect(parsePosition(text)).toEqual(position);
});
