/** Effects, start records, archive, events, dead letters, tasks and control: the same promises from memory and from NATS. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { memoryArchive, memoryEvents } from '../../services/adapters/memory/archive.ts';
import {
  memoryControl,
  memoryEffects,
  memoryStarts,
  memoryTasks,
} from '../../services/adapters/memory/queues.ts';
import { natsArchive } from '../../services/adapters/nats/archive.ts';
import { natsControl } from '../../services/adapters/nats/control.ts';
import { natsEffects } from '../../services/adapters/nats/effects.ts';
import { natsEvents } from '../../services/adapters/nats/events.ts';
import { natsStarts } from '../../services/adapters/nats/starts.ts';
import { natsTasks } from '../../services/adapters/nats/tasks.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { Refused } from '../../services/core/errors.ts';
import type { EffectId, Revision, SessionId, ShardId, TenantId } from '../../services/core/ids.ts';
import { limits } from '../../services/core/limits.ts';
import { revisionOf } from '../../services/core/session/specs.ts';
import { eventOf, stepEventOf } from '../../services/core/wire/cloud-event.ts';
import { taskIdentity } from '../../services/core/wire/letters.ts';
import type { Archive } from '../../services/ports/archive.ts';
import type { Control } from '../../services/ports/control.ts';
import type { Effects } from '../../services/ports/effects.ts';
import type { Events } from '../../services/ports/events.ts';
import { cancelledBy, cancelStart, placeOf, type Starts } from '../../services/ports/starts.ts';
import type { RawTask, Tasks } from '../../services/ports/tasks.ts';
import { eventually } from '../support/eventually.ts';
import { startServers } from '../support/servers.ts';
import { bundleOf, replied, runToolOf, Talk, task } from '../support/sessions.ts';
import { isUnit } from '../support/unit.ts';

interface World {
  readonly effects: Effects;
  readonly starts: Starts;
  readonly archive: Archive;
  readonly events: Events;
  /** Another process beside it. */
  readonly heir: Events;
  readonly tasks: Tasks;
  readonly control: Control;
  close(): Promise<void>;
}
let count = 0;

function describeQueues(name: string, open: () => Promise<World>) {
  describe.skipIf(isUnit && name !== 'memory')(`queues: ${name}`, () => {
    let world: World;
    beforeAll(async () => {
      world = await open();
    });
    afterAll(() => world.close());

    const effect = (pool: string, id = `e${++count}`) => runToolOf(pool, id);

    describe('effects', () => {
      test('what is offered to a pool is taken from it, each once while all goes well', async () => {
        const pool = `p${++count}`;
        const taken: string[] = [];
        const taking = await world.effects.take(
          pool,
          8,
          async ({ effect: one }) => taken.push(one.id) > 0,
          () => undefined,
        );
        const offered = Array.from({ length: 300 }, () => effect(pool));
        await Promise.all(offered.map((one) => world.effects.offer(one)));
        await eventually(() => taken.length >= 300);

        expect([...taken].sort()).toEqual(offered.map(({ id }) => id as string).sort());
        await taking.stop();
      });

      test('one whose performer fails is offered again, and says so', async () => {
        const pool = `p${++count}`;
        const tries: boolean[] = [];
        const taking = await world.effects.take(
          pool,
          8,
          async ({ isRedelivered }) => {
            tries.push(isRedelivered);
            if (tries.length < 2) throw new Error('not now');
            return true;
          },
          () => undefined,
        );
        await world.effects.offer(effect(pool));
        await eventually(() => tries.length === 2);

        expect(tries).toEqual([false, true]);
        await taking.stop();
      });

      test('no more than the concurrency are in hand', async () => {
        const pool = `p${++count}`;
        let now = 0;
        let most = 0;
        let done = 0;
        const taking = await world.effects.take(
          pool,
          4,
          async () => {
            now += 1;
            most = Math.max(most, now);
            await new Promise((resolve) => setTimeout(resolve, 5));
            now -= 1;
            done += 1;
            return true;
          },
          () => undefined,
        );
        for (let index = 0; index < 40; index += 1) await world.effects.offer(effect(pool));
        await eventually(() => done === 40);

        expect(most).toBeLessThanOrEqual(4);
        await taking.stop();
      });

      test('while its performer is full no more is begun, and with empty hands one always is', async () => {
        const pool = `p${++count}`;
        let isFull = true;
        let now = 0;
        let most = 0;
        let done = 0;
        const taking = await world.effects.take(
          pool,
          8,
          async () => {
            now += 1;
            most = Math.max(most, now);
            await new Promise((resolve) => setTimeout(resolve, 20));
            now -= 1;
            done += 1;
            return true;
          },
          () => undefined,
          () => isFull,
        );
        await Promise.all(Array.from({ length: 6 }, () => world.effects.offer(effect(pool))));
        await eventually(() => done === 6);
        expect(most).toBe(1);
        isFull = false;
        await Promise.all(Array.from({ length: 40 }, () => world.effects.offer(effect(pool))));
        await eventually(() => done === 46);
        expect(most).toBeGreaterThan(1);
        await taking.stop();
      });

      test('an effect that comes twice while it is in hand is performed once', async () => {
        const pool = `p${++count}`;
        let performed = 0;
        const taking = await world.effects.take(
          pool,
          8,
          async () => {
            performed += 1;
            await new Promise((resolve) => setTimeout(resolve, 200));
            return true;
          },
          () => undefined,
        );
        const one = effect(pool);
        await world.effects.offer(one);
        await eventually(() => performed === 1);
        await world.effects.offer(one);
        await taking.drain();

        expect(performed).toBe(1);
        await taking.stop();
      });

      test('one that was performed is not performed again when a copy comes late; one that had nothing to do may be', async () => {
        const pool = `p${++count}`;
        const seen: string[] = [];
        const taking = await world.effects.take(
          pool,
          8,
          async ({ effect: one }) => {
            seen.push(one.id);
            return one.id.startsWith('real');
          },
          () => undefined,
        );
        const [real, idle, last] = [
          effect(pool, `real${++count}`),
          effect(pool, `idle${++count}`),
          effect(pool, `last${++count}`),
        ];
        for (const one of [real, idle, real, idle]) {
          await world.effects.offer(one);
          await eventually(() => seen.includes(one.id) && taking.inFlight() === 0);
        }
        await world.effects.offer(last);
        await eventually(() => seen.includes(last.id));

        expect(seen).toEqual([real.id, idle.id, idle.id, last.id]);
        await taking.stop();
      });

      test('a pool says whether anybody asks for its work, and how much waits', async () => {
        const pool = `p${++count}`;
        const taking = await world.effects.take(
          pool,
          8,
          async () => true,
          () => undefined,
        );
        expect(
          await eventually(async () =>
            (await world.effects.pools()).find((one) => one.pool === pool && one.asking > 0),
          ),
        ).toMatchObject({ pool, queued: 0, inHand: 0 });
        await taking.drain();
        await taking.stop();
        await world.effects.offer(effect(pool));
        expect(
          await eventually(async () =>
            (await world.effects.pools()).find(
              (one) => one.pool === pool && one.asking === 0 && one.queued + one.inHand === 1,
            ),
          ),
        ).toBeDefined();
      });

      test('a pool that nobody ever took from is told when it is named, with what waits there', async () => {
        const pool = `p${++count}`;
        for (let one = 0; one < 3; one += 1) await world.effects.offer(effect(pool));
        const found = await eventually(async () =>
          (await world.effects.pools([pool])).find((one) => one.pool === pool && one.queued === 3),
        );
        expect(found).toEqual({ pool, asking: 0, queued: 3, inHand: 0 });
        expect(
          (await world.effects.pools()).some((one) => one.pool === pool && one.asking > 0),
        ).toBe(false);
      });

      test('cancelled, its signal is aborted', async () => {
        const pool = `p${++count}`;
        const aborted: string[] = [];
        const taking = await world.effects.take(
          pool,
          8,
          ({ effect: one, signal }) =>
            new Promise((resolve) =>
              signal.addEventListener('abort', () => {
                aborted.push(one.id);
                resolve(false);
              }),
            ),
          () => undefined,
        );
        const one = effect(pool);
        await world.effects.offer(one);
        await eventually(() => taking.inFlight() === 1);
        world.effects.cancel(pool, [one.id]);
        await eventually(() => aborted.length === 1);
        await taking.stop();
      });
    });

    describe('start records', () => {
      test('of many who would begin an effect one does, and the others learn who', async () => {
        const id = `e${++count}` as EffectId;
        const tries = await Promise.all(
          Array.from({ length: 20 }, (_, index) => world.starts.create(id, `x${index}`, 'opaque')),
        );
        const first = tries.findIndex(({ created }) => created);

        expect(tries.filter(({ created }) => created)).toHaveLength(1);
        for (const one of tries)
          if (!one.created) expect(one.first).toMatchObject({ effect: id, performer: `x${first}` });
      });

      test('who holds an effect answers for it, and the dead do not', async () => {
        world.starts.answerHolds('living', (id) =>
          id === 'mine' ? 'holding' : id === 'past' ? 'done' : 'unknown',
        );
        const ask = (performer: string, id: string) =>
          world.starts.holds(performer, id as EffectId, 500);
        await eventually(async () => (await ask('living', 'mine')) === 'holding');
        expect(await ask('living', 'past')).toBe('done');
        expect(await ask('living', 'other')).toBe('unknown');
        expect(await ask('dead', 'mine')).toBe('gone');
      });

      test('who asks whether a call is waited for hears it from who can say', async () => {
        const call = (effect: string) => ({
          shard: 3 as ShardId,
          tenant: 'acme' as TenantId,
          session: 'desk-1' as SessionId,
          effect: effect as EffectId,
        });
        const answers: Record<string, boolean> = { wanted: true, settled: false };
        world.starts.answerWanted(async ({ effect }) => answers[effect]);
        const ask = (effect: string, waitMs: number) => world.starts.isWanted(call(effect), waitMs);
        await eventually(() => ask('wanted', 500), 'an answer');
        expect(await ask('settled', 2_000)).toBe(false);
        expect(await ask('nobody-knows', 100)).toBeUndefined();
      });

      test('a cancelled effect is begun by nobody, and who had begun it is told', async () => {
        const fresh = `e${++count}` as EffectId;
        expect(await cancelStart(world.starts, fresh, 'opaque')).toBeUndefined();
        expect(await cancelStart(world.starts, fresh, 'opaque')).toBeUndefined();
        expect(await world.starts.create(fresh, 'x1', 'opaque')).toMatchObject({
          created: false,
          first: { performer: cancelledBy },
        });

        const begun = `e${++count}` as EffectId;
        await world.starts.create(begun, 'x1', 'keyed');
        expect(await cancelStart(world.starts, begun, 'keyed')).toBe('x1');
        expect(await world.starts.create(placeOf(begun, 2), 'x2', 'keyed')).toMatchObject({
          created: false,
          first: { performer: cancelledBy },
        });
      });
    });

    describe('archive', () => {
      const talk = new Talk();
      talk.say(task());
      const first = { record: talk.record!, mail: talk.heard.slice(0, 1) };
      talk.say(replied(talk.pendingOf('callModel'), { content: 'done' }));
      const second = { record: talk.record!, mail: talk.heard.slice(1) };
      const shard = 900 as ShardId;

      test('a chain of baselines comes back in order, one that was written twice counts once, the latest is the last', async () => {
        expect(await world.archive.latest(shard, first.record.session)).toBeUndefined();
        await world.archive.append(
          shard,
          first.record,
          first.mail.map((incoming) => JSON.stringify(incoming)),
        );
        await world.archive.append(
          shard,
          first.record,
          first.mail.map((incoming) => JSON.stringify(incoming)),
        );
        await world.archive.append(
          shard,
          second.record,
          second.mail.map((incoming) => JSON.stringify(incoming)),
        );

        const plain = (value: unknown) => JSON.parse(JSON.stringify(value)) as unknown;
        expect(await world.archive.chain(shard, first.record.session)).toEqual([
          plain(first),
          plain(second),
        ]);
        expect(await world.archive.latest(shard, first.record.session)).toEqual(plain(second));
        const found = [];
        for await (const baseline of world.archive.latestOf(shard, () => undefined))
          found.push(baseline.record.version);
        expect(found).toEqual([2]);
        const foundSince = async (since: number) => {
          const versions: number[] = [];
          for await (const baseline of world.archive.latestOf(shard, () => undefined, since))
            versions.push(baseline.record.version);
          return versions;
        };
        expect(await foundSince(Date.now() - 60_000)).toEqual([2]);
        expect(await foundSince(Date.now() + 60_000)).toEqual([]);
        // An owner that was paused writes one of its past.
        await world.archive.append(
          shard,
          first.record,
          first.mail.map((incoming) => JSON.stringify(incoming)),
        );
        expect(await world.archive.latest(shard, first.record.session)).toEqual(plain(second));
        expect(await world.archive.chain(shard, first.record.session)).toEqual([
          plain(first),
          plain(second),
        ]);
      });

      test('one that no message can carry is kept as well, also beside one whose writer died', async () => {
        const noise = Array.from({ length: 130_000 }, (_, at) =>
          ((at * 2_654_435_761) >>> 0).toString(36),
        ).join('');
        const big = {
          ...first.record,
          session: 'big-1' as SessionId,
          reason: [...noise].map((one, at) => one + ((at * 7_919) % 97)).join(''),
        };
        const mail = first.mail.map((incoming) => JSON.stringify(incoming));
        await world.archive.append(shard, big, mail);
        await world.archive.append(shard, { ...big, version: 2 }, mail);
        expect((await world.archive.latest(shard, big.session))?.record.version).toBe(2);
        expect(
          (await world.archive.chain(shard, big.session)).map(({ record }) => record.reason),
        ).toEqual([big.reason, big.reason]);
        const found = [];
        for await (const { record } of world.archive.latestOf(shard, () => undefined))
          if (record.session === big.session) found.push(record.version);
        expect(found).toEqual([2]);
      });

      test('bundles are found by revision', async () => {
        const [first, second] = [bundleOf(), { ...bundleOf(), behaviour: 3 }];
        await world.archive.putBundle(revisionOf(first), first);
        await world.archive.putBundle(revisionOf(second), second);
        await world.archive.putBundle(revisionOf(first), first);
        expect((await world.archive.lastBundles()).get(first.name)?.revision).toBe(
          revisionOf(first),
        );
        expect(await world.archive.bundle(revisionOf(second))).toEqual(second);
        expect(await world.archive.bundle('rev3' as Revision)).toBeUndefined();
      });
    });

    describe('events and dead letters', () => {
      const eventOfStep = () => {
        const talk = new Talk();
        talk.say(task());
        if (talk.last?.kind !== 'applied') throw new Error('not applied');
        return eventOf(talk.record!, talk.last.happened, talk.last.effects, talk.at);
      };

      test('followers hear what fits their filter, from now on or from the start', async () => {
        const event = eventOfStep();
        const [live, all, others]: string[][] = [[], [], []];
        const followers = [
          await world.events.follow({ session: event.data.session }, false, ({ id }) =>
            live!.push(id),
          ),
          await world.events.follow({ tenant: 'nobody' }, true, ({ id }) => others!.push(id)),
        ];
        await world.events.publishSteps([stepEventOf(event)]);
        followers.push(await world.events.follow({}, true, ({ id }) => all!.push(id)));
        await eventually(() => live!.length === 1 && all!.length === 1);

        expect([live, all, others]).toEqual([[event.id], [event.id], []]);
        for (const follower of followers) await follower.stop();
      });

      test('steps of many sessions that are told together are heard by who follows one of them, in order, and its end comes after them', async () => {
        const step = eventOfStep();
        const session = `desk-${String(++count).padStart(20, '0')}`;
        const of = (name: string, version: number) => ({
          ...step,
          id: `${name}-${version}`,
          data: { ...step.data, session: name, version },
        });
        const steps = Array.from({ length: 300 }, (_, index) =>
          of(index % 2 === 0 ? session : 'another', index + 1),
        );
        const end = {
          ...of(session, 299),
          id: `${session}-299-end0`,
          type: 'dev.understudy.completed',
        };
        const heard: string[] = [];
        const following = await world.events.follow(
          { tenant: step.data.tenant, session },
          false,
          ({ id }) => heard.push(id),
        );

        await Promise.all([
          world.events.publishSteps(steps.map(stepEventOf)),
          world.events.publishEnd(end),
        ]);
        await eventually(() => heard.length === 151);

        expect(heard).toEqual([
          ...steps.filter(({ data }) => data.session === session).map(({ id }) => id),
          end.id,
        ]);
        await following.stop();
      });

      test('an end that is told again while the first still waits is stored once', async () => {
        const step = eventOfStep();
        const tenant = `tenant${++count}`;
        const data = { ...step.data, tenant, session: 'desk-again', task: 'again' };
        const end = { ...step, id: 'again-1-end0', time: new Date().toISOString(), data };
        const other = { ...end, id: 'other-1-end0', data: { ...data, task: 'other' } };
        const told = await Promise.all(
          [other, end, end, end].map((one) => world.events.publishEnd(one)),
        );
        expect(told).toEqual([true, true, false, false]);
        const since = Date.now() - 60_000;
        const ends = await world.events.endsOf({ ...data }, 0, since);
        expect(ends.map(({ data: { task } }) => task)).toEqual(['other', 'again']);
      });

      test('an end that was told long ago is known to one that has told others since', async () => {
        const step = eventOfStep();
        const tenant = `tenant${++count}`;
        const endOf = (task: string, aheadMs: number) => ({
          ...step,
          id: `${task}-1-end0`,
          time: new Date(Date.now() + aheadMs).toISOString(),
          data: { ...step.data, tenant, session: `desk-${task}`, task },
        });
        const old = endOf('old', -3_600_000);
        expect(await world.events.publishEnd(old)).toBe(true);
        // Its session is rebuilt by another owner, which has looked at the last minute only.
        expect(await world.heir.publishEnd(endOf('young', 120_000))).toBe(true);
        expect(await world.heir.publishEnd(old)).toBe(false);
        expect(await world.heir.publishEnd(endOf('younger', 120_000))).toBe(true);
        expect(await world.events.publishEnd(old)).toBe(false);
      });

      test('the end of a task is told once, whoever tells it and whatever it came to', async () => {
        const step = eventOfStep();
        const session = `desk-${String(++count).padStart(20, '0')}`;
        const since = Date.now() - 1_000;
        const endOf = (task: string, version: number, to = 'completed') => ({
          ...step,
          id: `${session}-${version}-end0`,
          type: `dev.understudy.${to}`,
          time: new Date().toISOString(),
          data: { ...step.data, session, task, version, to },
        });
        const told = await Promise.all([
          world.events.publishEnd(endOf('t1', 3), 7),
          world.events.publishEnd(endOf('t2', 4), 7),
          world.events.publishEnd(endOf('t1', 3), 7),
          world.events.publishEnd(endOf('t1', 9, 'failed'), 7),
        ]);
        expect(told.filter(Boolean)).toHaveLength(2);
        const again = await world.heir.publishEnd(endOf('t1', 9, 'failed'), 7);
        expect(again).toBe(false);
        expect(await world.heir.publishEnd(endOf('t3', 10), 7)).toBe(true);
        expect(await world.events.publishEnd(endOf('t4', 11), 7)).toBe(true);
        const ends = await world.events.endsOf({ ...step.data, session }, 7, since);
        expect(ends.map(({ data }) => [data.task, data.to])).toEqual([
          ['t1', 'completed'],
          ['t2', 'completed'],
          ['t3', 'completed'],
          ['t4', 'completed'],
        ]);
      });

      test('who reads from the start may leave out what is older than a session', async () => {
        const session = `desk-${String(++count).padStart(20, '0')}`;
        const event = { ...eventOfStep(), time: new Date().toISOString() };
        const one = { ...event, id: `${session}-1`, data: { ...event.data, session } };
        await world.events.publishSteps([stepEventOf(one)]);
        const [since, later]: string[][] = [[], []];

        const followers = [
          await world.events.follow({ session, since: Date.now() - 60_000 }, true, ({ id }) =>
            since!.push(id),
          ),
          await world.events.follow({ session, since: Date.now() + 60_000 }, true, ({ id }) =>
            later!.push(id),
          ),
        ];
        await eventually(() => since!.length === 1);

        expect([since, later]).toEqual([[one.id], []]);
        for (const follower of followers) await follower.stop();
      });

      test('a dead letter keeps everything needed to publish it again, whatever its names were', async () => {
        await world.events.putDeadLetter({
          tenant: 'a b.c',
          agent: '',
          code: 'TASK_NOT_JSON',
          reason: 'because',
          task: 't',
          subject: 'understudy.task.x.y',
          body: '{',
          headers: { a: 'b' },
          identity: 'letter-1',
        });
        const [letter] = await eventually(async () => {
          const letters = await world.events.deadLetters(10);
          return letters.length > 0 ? letters : undefined;
        });

        expect(letter).toMatchObject({
          tenant: 'a b.c',
          code: 'TASK_NOT_JSON',
          subject: 'understudy.task.x.y',
        });
        expect(letter).not.toHaveProperty('body');
        expect(await world.events.deadLetter(letter!.id)).toMatchObject({
          ...letter,
          body: '{',
          headers: { a: 'b' },
          identity: 'letter-1',
        });
        expect(await world.events.removeDeadLetter(letter!.id)).toBe(true);
        expect(await world.events.removeDeadLetter(letter!.id)).toBe(false);
        expect(await world.events.deadLetter(letter!.id)).toBeUndefined();
      });

      test('a dead letter is stored once for its identity, and its tenant hears of it once', async () => {
        const tenant = `tenant${++count}`;
        const heard: string[] = [];
        const following = await world.events.follow({ tenant }, false, ({ data }) =>
          heard.push(`${data.task} ${data.to} ${data.reason}`),
        );
        const letter = {
          tenant,
          agent: 'desk',
          code: 'AGENT_UNKNOWN',
          reason: 'no such agent: \u00fc',
          session: 'desk-1',
          task: 't1',
          subject: `understudy.task.${tenant}.desk`,
          body: '{}',
          headers: {},
          identity: taskIdentity('desk-1', 't1'),
        };
        await Promise.all([world.events.putDeadLetter(letter), world.heir.putDeadLetter(letter)]);
        await world.events.putDeadLetter(letter);
        await world.events.putDeadLetter({ ...letter, subject: '', identity: 'mail-1-0-2-0' });
        await eventually(() => heard.length === 1, 'the event');

        const mine = (await world.events.deadLetters(20)).filter((one) => one.tenant === tenant);
        expect(mine.map(({ subject }) => subject)).toEqual(['', letter.subject]);
        expect(await world.events.letterOf(tenant, 'desk', 'desk-1', 't1')).toMatchObject({
          code: 'AGENT_UNKNOWN',
          task: 't1',
        });
        expect(heard).toEqual(['t1 dead-lettered AGENT_UNKNOWN: no such agent: \u00fc']);
        for (const { id } of mine) await world.events.removeDeadLetter(id);
        // Thrown away, and refused again: its publisher waits for an answer to this one.
        await world.heir.putDeadLetter(letter);
        await eventually(() => heard.length === 2, 'the second event');
        const [again] = await world.events.deadLetters(1);
        await world.events.removeDeadLetter(again!.id);
        await following.stop();
      });

      test('letters are read newest first, in pages, also where many were taken away', async () => {
        const tenant = `tenant${++count}`;
        const put = (number: number) =>
          world.events.putDeadLetter({
            tenant,
            agent: 'desk',
            code: 'QUEUE_FULL',
            reason: '',
            task: `t${number}`,
            subject: '',
            body: '{}',
            headers: {},
            identity: `page-${tenant}-${number}`,
          });
        for (let number = 0; number < 200; number += 1) await put(number);
        const all = (await world.events.deadLetters(400)).filter((one) => one.tenant === tenant);
        expect(all.map(({ task }) => task).slice(0, 2)).toEqual(['t199', 't198']);
        expect(all).toHaveLength(200);
        for (const { id } of all.slice(3, -3)) await world.events.removeDeadLetter(id);
        const first = await world.events.deadLetters(3);
        expect(first.map(({ task }) => task)).toEqual(['t199', 't198', 't197']);
        const second = await world.events.deadLetters(3, first.at(-1)!.id);
        expect(second.map(({ task }) => task)).toEqual(['t2', 't1', 't0']);
        expect(await world.events.countDeadLetters()).toBe(6);
        for (const { id } of [...first, ...second]) await world.events.removeDeadLetter(id);
      });

      test('no names and no body keep a letter from being stored', async () => {
        const foul = ['é', '"', '\\', '\u0001', '\u{1f600}'].map((one) => one.repeat(300));
        const identities = foul.map((_, number) => `foul-${number}`);
        for (const [number, text] of foul.entries())
          await world.events.putDeadLetter({
            tenant: 'acme',
            agent: text,
            code: 'AGENT_INVALID',
            reason: text,
            session: text,
            task: text,
            subject: text,
            body: '\u0001'.repeat(180_000) + text,
            headers: { 'Understudy-Task': text, 'Understudy-Session': text },
            identity: identities[number]!,
          });
        const heads = (await world.events.deadLetters(20)).filter(
          ({ code }) => code === 'AGENT_INVALID',
        );
        expect(heads).toHaveLength(foul.length);
        for (const { id } of heads) await world.events.removeDeadLetter(id);
      });

      test('a dead letter that no message could carry is stored all the same, cut, and says so', async () => {
        const body = `{"a":"${'\\"'.repeat(131_000)}\u0000é"}`;
        const letter = {
          tenant: 'acme',
          agent: 'clerk',
          code: 'QUEUE_FULL',
          reason: 'because',
          task: 'huge',
          subject: 'understudy.task.acme.clerk',
        };
        await world.events.putDeadLetter({
          ...letter,
          body: JSON.stringify(JSON.stringify(body)),
          headers: {},
          identity: 'cut',
        });
        await world.events.putDeadLetter({
          ...letter,
          body,
          headers: { padding: 'x'.repeat(900_000) },
          identity: 'bare',
        });
        const [bare, cut] = await eventually(async () => {
          const heads = (await world.events.deadLetters(10)).filter(({ task }) => task === 'huge');
          const letters = await Promise.all(heads.map(({ id }) => world.events.deadLetter(id)));
          return letters.length === 2 ? letters : undefined;
        });

        if (cut!.isCut)
          expect(JSON.stringify(JSON.stringify(body)).startsWith(cut!.body)).toBe(true);
        else expect(cut!.body).toBe(JSON.stringify(JSON.stringify(body)));
        expect(bare!.body).toBe(body);
        for (const { id } of [cut!, bare!]) await world.events.removeDeadLetter(id);
      });
    });

    test('a task is handed over until it is accepted, with its headers and a stable id', async () => {
      const handed: RawTask[] = [];
      const taking = await world.tasks.take(
        () => 10,
        async (one) => {
          handed.push(one);
          if (handed.length === 1) throw new Error('not now');
        },
      );
      await world.tasks.publish('acme', 'desk', '{"input":1}', { 'Nats-Msg-Id': 'id-1' });
      await eventually(() => handed.length === 2);

      expect(handed[1]).toEqual(handed[0]);
      expect(handed[0]).toMatchObject({
        tenant: 'acme',
        agent: 'desk',
        body: '{"input":1}',
        headers: { 'Understudy-Task': 'id-1' },
        sequenceId: expect.stringMatching(/^task-\d+$/),
      });
      await taking.drain();
    });

    test('one id at two tenants, two agents, two keys, and twice is as many tasks', async () => {
      const handed: string[] = [];
      const taking = await world.tasks.take(
        () => 10,
        async ({ tenant, agent, headers }) =>
          void handed.push(`${tenant} ${agent} ${headers['Understudy-Session'] ?? ''}`),
      );
      const all = [
        ['acme', 'desk', undefined],
        ['globex', 'desk', undefined],
        ['acme', 'helper', undefined],
        ['acme', 'desk', 'a'],
        ['acme', 'desk', 'b'],
        ['acme', 'desk', undefined],
      ] as const;
      for (const [tenant, agent, key] of all) {
        const headers = { 'Nats-Msg-Id': 'order-1', ...(key ? { 'Understudy-Session': key } : {}) };
        await world.tasks.publish(tenant, agent, '{}', headers);
      }
      await eventually(() => handed.length === all.length);
      expect(handed).toEqual(all.map(([tenant, agent, key]) => `${tenant} ${agent} ${key ?? ''}`));
      await taking.drain();
    });

    test('who takes over is handed what was not accepted, in order, and the one before nothing more', async () => {
      const first: string[] = [];
      const stuck = await world.tasks.take(
        () => 3,
        async ({ body }) => {
          first.push(body);
          await new Promise((resolve) => setTimeout(resolve, 1_500));
          throw new Error('not accepted');
        },
      );
      for (let number = 0; number < 6; number += 1)
        await world.tasks.publish('acme', 'desk', String(number), {});
      await eventually(() => first.length === 3);
      const draining = stuck.drain();
      const next: string[] = [];
      await draining;
      const taking = await world.tasks.take(
        () => 10,
        async ({ body }) => void next.push(body),
      );
      await eventually(() => next.length >= 6);
      expect([...next].sort()).toEqual(['0', '1', '2', '3', '4', '5']);
      expect(first).toEqual(['0', '1', '2']);
      await eventually(async () => (await world.tasks.state()).waiting === 0);
      expect(await world.tasks.state()).toEqual({ waiting: 0, stuck: false, isTaken: true });
      await taking.drain();
    });

    test('control answers by verb; an error becomes an answer with its code', async () => {
      const serving = await world.control.serve({
        echo: async (body) => ({ ok: true, value: body }),
        no: async () => {
          throw new Refused('NOT_NOW', 'later');
        },
      });
      expect(await eventually(() => world.control.ask('echo', { a: 1 }, 500))).toEqual({
        ok: true,
        value: { a: 1 },
      });
      expect(await world.control.ask('no', {}, 500)).toEqual({
        ok: false,
        code: 'NOT_NOW',
        message: 'later',
      });
      await serving.stop();
      await expect(world.control.ask('echo', {}, 200)).rejects.toMatchObject({
        code: 'NO_RUNTIME',
      });
    });
  });
}

describeQueues('memory', async () => {
  const events = memoryEvents(systemClock);
  return {
    effects: memoryEffects(systemClock),
    starts: memoryStarts(systemClock),
    archive: memoryArchive(),
    events,
    heir: events,
    tasks: memoryTasks(),
    control: memoryControl(),
    close: async () => undefined,
  };
});
describeQueues('nats', async () => {
  const servers = await startServers();
  const { nats } = servers.connections;
  return {
    effects: natsEffects(nats),
    starts: natsStarts(nats),
    archive: natsArchive(nats),
    events: natsEvents(nats),
    heir: natsEvents(nats),
    tasks: natsTasks(nats),
    control: natsControl(nats),
    close: () => servers.stop(),
  };
});

test.skipIf(isUnit)(
  'who drains hands back what came and was not begun: another does it meanwhile',
  async () => {
    const servers = await startServers();
    try {
      const { nats } = servers.connections;
      const one = (id: string) => runToolOf('late', id);
      const publish = (body: object) =>
        nats.publisher.publish(
          nats.subjects.effect('late', 'acme' as TenantId),
          JSON.stringify(body),
        );
      // Room for sixteen asks for two messages: one has an effect too many, and the other is alone.
      await publish(Array.from({ length: 17 }, (_, index) => one(`batch-${index}`)));
      await publish(one('alone'));
      const released = Promise.withResolvers<boolean>();
      const [first, others]: string[][] = [[], []];
      const take = (concurrency: number, perform: (id: string) => Promise<boolean>) =>
        natsEffects(nats).take(
          'late',
          concurrency,
          ({ effect }) => perform(effect.id),
          () => undefined,
        );
      const draining = await take(16, (id) => {
        first!.push(id);
        return released.promise;
      });
      await eventually(() => first!.length === 16, 'its hands to be full');
      const drained = draining.drain();
      const other = await take(16, async (id) => others!.push(id) > 0);
      await eventually(() => others!.length === 2, 'the others');
      released.resolve(true);
      await drained;
      await draining.stop();
      await new Promise((resolve) => setTimeout(resolve, limits.effectAckWaitMs + 500));
      await other.stop();

      expect([first!.length, others!.sort()]).toEqual([16, ['alone', 'batch-16']]);
    } finally {
      await servers.stop();
    }
  },
);

test.skipIf(isUnit)(
  'a baseline in ARCHIVE that does not parse is told of, and the others are read',
  async () => {
    const servers = await startServers();
    try {
      const { nats } = servers.connections;
      const archive = natsArchive(nats);
      const talk = new Talk();
      talk.say(task('hello'));
      await archive.append(3 as ShardId, talk.record!, []);
      await nats.publisher.publish(nats.subjects.archive(3, 'junk-1' as SessionId), 'no baseline');
      const read: string[] = [];
      const unreadable: string[] = [];
      for await (const { record } of archive.latestOf(3 as ShardId, (session) =>
        unreadable.push(session),
      ))
        read.push(record.session);
      expect([read, unreadable]).toEqual([[talk.record!.session], ['junk-1']]);
    } finally {
      await servers.stop();
    }
  },
);
