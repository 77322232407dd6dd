/**
 * Performs model calls: claims the call, reads the prompt where it lies, asks provider after provider, and
 * mails the answer.
 *
 * Owns     the claims of the calls that it makes.
 *
 * G1  A call is made only while its session waits for it and no other gateway makes it.
 * G2  The answer is mailed before the effect is acknowledged: a gateway that dies is followed by another.
 * G3  Failures are retried here, bounded and by class; what comes out of here is final.
 */
import { isForAnother, Later, messageOf, Refused } from '../core/errors.ts';
import { type EffectId, type ShardId, shardOf } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import { patiently } from '../core/patience.ts';
import { modelPool } from '../core/pools.ts';
import { behaviourOf } from '../core/session/behaviour.ts';
import { lengthOf } from '../core/session/condensed.ts';
import type { CallModel } from '../core/session/effects.ts';
import type { Message } from '../core/session/messages.ts';
import { askedWithinMs } from '../core/session/model-call.ts';
import type { TenantSpec } from '../core/session/specs.ts';
import { type Failure, failed } from '../core/tools/job.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Doors } from '../ports/doors.ts';
import type { Effects, Taken, Taking } from '../ports/effects.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { Charge, Model, RateLimits } from '../ports/performers.ts';
import type { SchemaChecks } from '../ports/schema-checks.ts';
import type { ModelCalls } from '../ports/session-store.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import type { Tokens } from '../ports/tokens.ts';
import { askAll, CallSpending } from './asking.ts';
import { ModelDoors } from './doors.ts';
import { promptOf } from './prompt.ts';
import { asHeard, checksOf, replyThatFits, summaryOf } from './reply.ts';
import { PromptRoom } from './room.ts';
import { Watched } from './watched.ts';

export interface GatewayPorts {
  readonly effects: Effects;
  readonly calls: ModelCalls;
  readonly mailbox: Mailbox;
  readonly archive: Pick<Archive, 'bundle'>;
  readonly model: Model;
  readonly rates: RateLimits;
  /** Absent: this gateway alone knows which providers want no calls. */
  readonly doors?: Doors | undefined;
  readonly tenants: () => ReadonlyMap<string, TenantSpec>;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
  readonly shards: number;
  /** Tokens as they come, for whoever watches. */
  readonly tokens?: Tokens;
  /** Absent: what is too costly for a step is refused there. */
  readonly checks?: SchemaChecks | undefined;
}

/** A call that is claimed here. */
interface Claimed {
  readonly shard: ShardId;
  /** Tries that were noted before ours. */
  readonly triesBefore: number;
  spending: CallSpending | undefined;
  /** When it was certainly ours last, epoch ms. */
  oursAt: number;
  /** Another took it: it calls, too. */
  isContested: boolean;
  /** Tries of others beside ours that the spending has. */
  othersCounted: number;
}

/** Who performs, and which calls are claimed in its name. */
interface Self {
  readonly gateway: string;
  readonly claimed: Map<EffectId, Claimed>;
  readonly doors: ModelDoors;
  readonly room: PromptRoom;
  /** Calls that are being made: their answers may come at any moment. */
  asking: number;
}

export async function startGateway(
  gateway: string,
  ports: GatewayPorts,
  concurrency: number = limits.modelCallsMax,
  /** Of prompts that are being asked, together. */
  promptBytesMax = Number.POSITIVE_INFINITY,
): Promise<Taking> {
  const { effects, clock, telemetry } = ports;
  const doors = new ModelDoors(ports);
  const room = new PromptRoom(promptBytesMax);
  const self: Self = { gateway, claimed: new Map(), doors, room, asking: 0 };
  const taking = await effects.take(
    modelPool,
    concurrency,
    async (taken) => {
      const { effect, signal } = taken;
      const begun: { spending?: CallSpending } = {};
      if (effect.kind !== 'callModel') {
        telemetry.refused('effect', 'WRONG_POOL', { effect: effect.id, kind: effect.kind });
        return false;
      }
      try {
        return await perform(effect, taken, begun, self, ports);
      } catch (error) {
        if (error instanceof Later) {
          // What an earlier try of ours may have cost, whoever comes next must know.
          const { attempts = 0, freeAttempts = 0 } = begun.spending ?? {};
          if (error.mayHaveBegun || attempts === freeAttempts) throw error;
          throw new Later(error.code, error.message, error.retryAfterMs, true);
        }
        if (isForAnother(error)) {
          const mayHaveBegun = taken.isRedelivered || (begun.spending?.attempts ?? 0) > 0;
          throw new Later('CALL_LATER', messageOf(error), 500, mayHaveBegun);
        }
        // It would come to the same with every redelivery, and may be paid for each time.
        const [code, cause] = [
          error instanceof Refused ? error.code : 'GATEWAY_DEFECT',
          messageOf(error),
        ];
        telemetry.log('error', 'a model call could not be made', {
          effect: effect.id,
          session: effect.session,
          code,
          cause,
        });
        const { failure } = failed(
          'permanent',
          code,
          `the gateway failed at this call: ${cause.slice(0, 200)}`,
        );
        const message = failedMessage(effect, failure, begun.spending);
        await mail(effect, signal, async () => message, self, ports);
        return true;
      }
    },
    (_raw, problem) =>
      telemetry.refused('effect', 'EFFECT_INVALID', { problem: problem.slice(0, 200) }),
    () => room.isFull,
  );
  // A renewal that fails is followed by others; should all fail, the claim expires, and another calls.
  const renewing = clock.every(limits.effectHeartbeatMs, () => {
    doors.stay();
    for (const [effect, claimed] of self.claimed)
      renew(effect, claimed, self, ports).catch(() => undefined);
  });
  return {
    ...taking,
    async stop() {
      renewing.stop();
      await taking.stop();
    },
  };
}

/** @returns how many tries are known now. @throws Unavailable */
async function renew(
  effect: EffectId,
  claimed: Claimed,
  { gateway }: Self,
  { calls, clock }: GatewayPorts,
): Promise<number> {
  const asked = clock.now();
  const known = triesOf(claimed);
  const { shard } = claimed;
  const { isOurs, tries } = await calls.renew(
    shard,
    effect,
    gateway,
    limits.effectAckWaitMs,
    known,
  );
  if (isOurs) claimed.oursAt = asked;
  else claimed.isContested = true;
  return tries;
}

const triesOf = ({ triesBefore, spending }: Claimed): number =>
  triesBefore + Math.max(1, spending?.attempts ?? 0);

/**
 * Another gateway that took the claim calls as well. The session hears one answer, so that answer
 * carries the cost of both.
 */
async function countOthers(
  effect: EffectId,
  claimed: Claimed,
  self: Self,
  ports: GatewayPorts,
): Promise<void> {
  const { spending, oursAt } = claimed;
  const isSure = ports.clock.now() - oursAt < limits.effectAckWaitMs;
  if (!spending || (!claimed.isContested && isSure)) return;
  // Where nobody can say, another may be at it.
  const noted = await renew(effect, claimed, self, ports).catch(() => undefined);
  const least = noted === undefined || claimed.isContested ? 1 : 0;
  const others = Math.max(least, (noted ?? 0) - triesOf(claimed));
  spending.othersTried(Math.max(0, others - claimed.othersCounted));
  claimed.othersCounted = Math.max(others, claimed.othersCounted);
}

/** What all tries cost goes along: those before this gateway's too. */
const failedMessage = (
  effect: CallModel,
  failure: Failure,
  spending: CallSpending | undefined,
): Message => ({
  kind: 'modelFailed',
  effect: effect.id,
  failure,
  attempts: spending?.attempts ?? 0,
  ...(spending ? { spent: spending.paid } : {}),
});

/** Waits until there is room for its prompt. @param begun  is given the spending as soon as something may have been paid */
async function perform(
  effect: CallModel,
  taken: Taken,
  begun: { spending?: CallSpending },
  self: Self,
  ports: GatewayPorts,
): Promise<boolean> {
  const { room } = self;
  await room.turn();
  let length: number | undefined;
  const onRead = (read: number) => {
    length = read;
    room.read(read);
  };
  try {
    return await performNow(effect, taken, begun, onRead, self, ports);
  } finally {
    if (length === undefined) room.read(0);
    room.leave(length ?? 0);
  }
}

async function performNow(
  effect: CallModel,
  { signal, isRedelivered }: Taken,
  begun: { spending?: CallSpending },
  onRead: (length: number) => void,
  self: Self,
  ports: GatewayPorts,
): Promise<boolean> {
  const { calls, shards, telemetry } = ports;
  const { gateway, claimed } = self;
  const shard = shardOf(effect.tenant, effect.session, shards);
  if (signal.aborted) return false;
  const asked = ports.clock.now();
  const claim = await calls.claim(
    { shard, session: effect.session, effect: effect.id, from: effect.from, to: effect.to },
    gateway,
    limits.effectAckWaitMs,
  );
  // Halted, timed out, answered already; or the store lost it and the fold has not come to it again.
  if (claim === 'settled') return false;
  if (claim === 'held')
    throw new Later('CALL_HELD', `effect ${effect.id} is being performed`, 1_000, true);

  const from = performance.now();
  const { entries } = claim;
  onRead(lengthOf(entries));
  // An earlier version notes no tries, and a store that lost its notes was built again since.
  const isDoubtful = isRedelivered || effect.isOfferedAgain === true;
  const triesBefore = Math.max(claim.triesBefore, isDoubtful ? 1 : 0);
  const mine: Claimed = {
    shard,
    triesBefore,
    spending: undefined,
    oursAt: asked,
    isContested: false,
    othersCounted: 0,
  };
  claimed.set(effect.id, mine);
  try {
    const bundle = await ports.archive.bundle(effect.revision);
    if (!bundle) {
      const failure: Failure = {
        class: 'permanent',
        code: 'REVISION_UNKNOWN',
        message: `no bundle of revision ${effect.revision}`,
      };
      const message = failedMessage(effect, failure, undefined);
      await mail(effect, signal, async () => message, self, ports);
      return true;
    }
    const { models } = bundle;
    const spending = new CallSpending(effect, models, triesBefore);
    begun.spending = spending;
    mine.spending = spending;
    const watched = ports.tokens && new Watched(ports.tokens, effect);
    const onAsking = (isAsking: boolean) => {
      self.asking += isAsking ? 1 : -1;
    };
    const prompt = promptOf(effect, bundle, entries);
    const noteTry = async (): Promise<boolean> => {
      const held = limits.effectAckWaitMs;
      const noted = await calls.noteTry(shard, effect.id, gateway, held, triesOf(mine));
      if (noted === 'held')
        throw new Later('CALL_HELD', `effect ${effect.id} is being performed`, 1_000, true);
      return noted === 'noted';
    };
    const charge = () => throttle(effect, ports);
    const askedAt = effect.deadlineAt - limits.deadlineSlackMs - askedWithinMs(bundle);
    const asking = {
      effect,
      askedAt,
      prompt,
      models,
      spending,
      signal,
      watched,
      onAsking,
      noteTry,
      charge,
    };
    const { outcome, model, isSettled } = await askAll(asking, { ...ports, doors: self.doors });
    if (signal.aborted || isSettled) return false; // nobody waits any more
    const { attempts } = spending;
    const seconds = (performance.now() - from) / 1_000;
    telemetry.performed('model', model, outcome.ok ? 'ok' : outcome.failure.class, seconds);
    const fields = { effect: effect.id, session: effect.session, model, attempts };
    const trace = effect.traceparent;
    const found = outcome.ok
      ? await checksOf(effect.tenant, outcome.value.calls, bundle, ports)
      : {};
    const compose = async (): Promise<Message> => {
      await countOthers(effect.id, mine, self, ports);
      if (!outcome.ok) return failedMessage(effect, outcome.failure, spending);
      const told = asHeard(replyThatFits(outcome.value), behaviourOf(bundle));
      const summed = summaryOf(told, effect, bundle, entries);
      const reply = { ...summed, ...found, attempts, spent: spending.paid };
      return { kind: 'modelReplied', effect: effect.id, reply };
    };
    if (outcome.ok) {
      const { usage, costMicros } = outcome.value;
      telemetry.spent(model, usage.promptTokens, usage.completionTokens, costMicros);
      telemetry.log('debug', 'model replied', { ...fields, trace });
    } else {
      const { code, class: failureClass } = outcome.failure;
      telemetry.log('warn', 'model failed', { ...fields, code, class: failureClass, trace });
    }
    await mail(effect, signal, compose, self, ports);
    return true;
  } catch (error) {
    // What was not asked for, or cost nothing, is taken back of our notes, whatever others have noted.
    const { attempts = 0, freeAttempts = 0 } = begun.spending ?? {};
    if (attempts === 0 || error instanceof Later) {
      claimed.delete(effect.id);
      const free = Math.max(freeAttempts, attempts === 0 ? 1 : 0);
      await calls.letGo(shard, effect.id, gateway, free).catch(() => undefined);
    }
    throw error;
  } finally {
    claimed.delete(effect.id);
  }
}

/** However long the log is away: handed back to the queue, the call would be made, and paid for, again. */
const mail = (
  { id, tenant, session }: CallModel,
  signal: AbortSignal,
  compose: () => Promise<Message>,
  self: Self,
  { mailbox, shards, telemetry, clock }: GatewayPorts,
): Promise<void> =>
  patiently(
    async () => {
      const message = await compose();
      const shard = shardOf(tenant, session, shards);
      await mailbox.deliver(shard, { tenant, session, message }, self.asking);
    },
    (cause) => telemetry.log('warn', 'an answer waits to be told', { effect: id, session, cause }),
    clock.sleep,
    () => !signal.aborted,
  );

/** A tenant that has used its share waits in the queue, not in our hands: the others go on. */
async function throttle(
  effect: CallModel,
  { tenants, rates, telemetry }: GatewayPorts,
): Promise<void> {
  const spec = tenants().get(effect.tenant);
  const charges: Charge[] = [];
  if (spec?.requestsPerMinute !== undefined)
    charges.push({ what: 'requests', points: 1, perMinute: spec.requestsPerMinute });
  if (spec?.tokensPerMinute !== undefined)
    charges.push({
      what: 'tokens',
      points: effect.tokensReserved,
      perMinute: spec.tokensPerMinute,
    });
  const refusal = charges.length > 0 ? await rates.take(effect.tenant, charges) : undefined;
  if (!refusal) return;
  telemetry.log('debug', 'throttled', { tenant: effect.tenant, ...refusal });
  throw new Later(
    'THROTTLED',
    `tenant ${effect.tenant} has used its ${refusal.what} for this minute`,
    Math.min(refusal.waitMs, 5_000) + Math.random() * 500,
    false,
  );
}
