/**
 * What becomes of one message of a shard: a step that the next commit writes, nothing because it was heard before or comes too late, or a dead letter.
 *
 * Asks     `step` for decisions, Drafts to keep what they want, DeadLetters to store what no step can be made of (S6).
 */
import { Stuck } from '../core/bounded.ts';
import { Defect, messageOf, Refused, UnderstudyError } from '../core/errors.ts';
import type { ShardId } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import { behaviourOf } from '../core/session/behaviour.ts';
import type { Incoming, Step } from '../core/session/draft.ts';
import { isEnded, type Known } from '../core/session/record.ts';
import { unheard } from '../core/session/seen.ts';
import { haltWithout, park } from '../core/session/step.ts';
import type { Envelope } from '../core/wire/envelopes.ts';
import { eventLetterOf, mailIdentity, taskIdentity } from '../core/wire/letters.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import type { Actor, Waiting } from './actor.ts';
import type { Baselines } from './baselines.ts';
import { boundedStep } from './bounded-step.ts';
import type { DeadLetters } from './dead-letters.ts';
import type { Drafts } from './drafts.ts';
import { plainMaxOf } from './mail-buffer.ts';
import type { Residents } from './residents.ts';
import type { Wakes } from './wakes.ts';
import type { ShardWindows } from './windows.ts';

export interface StepperRooms {
  readonly residents: Residents;
  readonly drafts: Drafts;
  readonly windows: ShardWindows;
  readonly baselines: Baselines;
  readonly deadLetters: DeadLetters;
  readonly wakes: Wakes;
}

type Applied = Extract<Step, { kind: 'applied' }>;

export class Stepper {
  readonly #shard: ShardId;
  readonly #telemetry: Telemetry;
  readonly #rooms: StepperRooms;
  readonly #onDraft: () => void;

  /** @param onDraft  told when there is something to commit */
  constructor(shard: ShardId, telemetry: Telemetry, rooms: StepperRooms, onDraft: () => void) {
    this.#shard = shard;
    this.#telemetry = telemetry;
    this.#rooms = rooms;
    this.#onDraft = onDraft;
  }

  /** @param actor  loaded, with its definition */
  apply(actor: Actor, { incoming, done }: Waiting): void {
    const definition = actor.definition!;
    const from = performance.now();
    let stepped: Step | undefined;
    let crash: unknown;
    for (let attempt = 0; attempt < limits.stepTries && !stepped; attempt += 1) {
      try {
        // After a crash the snapshot in memory is not trusted: the record is.
        stepped = boundedStep(
          actor.record,
          incoming,
          definition,
          actor,
          attempt === 0 ? actor.live : undefined,
        );
      } catch (error) {
        crash = error;
        if (error instanceof Refused || error instanceof Stuck) break;
      }
    }
    if (!stepped) return this.#refuse(actor, incoming, crash, done);
    this.#telemetry.stepped((performance.now() - from) / 1_000, incoming.message.kind);
    if (stepped.kind === 'seen') this.#telemetry.seen(stepped.code);
    else if (!this.#keepOrPark(actor, incoming, stepped, done)) return;
    done();
  }

  /** @returns false when it cannot be written: then the session is parked, and others go on */
  #keepOrPark(actor: Actor, incoming: Incoming, stepped: Applied, done: () => void): boolean {
    try {
      this.#keep(actor, incoming, stepped);
      return true;
    } catch (error) {
      actor.live = undefined;
      this.#refuse(actor, incoming, new Defect('STATE_UNWRITABLE', messageOf(error)), done);
      return false;
    }
  }

  /** Nothing can step without a definition: a session that exists is parked and keeps its mail, a task is refused; the shard goes on (S6). */
  withoutDefinition(actor: Actor, error: Refused): void {
    actor.isLoading = false;
    for (const { incoming, done } of actor.waiting.splice(0)) {
      if (!actor.record) {
        this.#refuse(actor, incoming, error, done);
        continue;
      }
      let stepped: Step;
      try {
        stepped =
          incoming.message.kind === 'halt'
            ? haltWithout(actor.record, incoming, behaviourIn(error), actor)
            : park(actor.record, incoming, error, actor, true);
      } catch (full) {
        this.#refuse(actor, incoming, full, done);
        continue;
      }
      if (stepped.kind === 'applied') this.#keep(actor, incoming, { ...stepped, live: undefined });
      done();
    }
    if (!actor.record) this.#rooms.residents.forget(actor);
    else
      this.#telemetry.log('error', 'session parked: its definition cannot be loaded', {
        session: actor.session,
        shard: this.#shard,
        code: error.code,
      });
  }

  /** Mail for a session that has ended: nothing to do, unless it is a task that nobody has answered. */
  tooLate({ tenant, session, message }: Envelope, known: Known, done: () => void): void {
    if (message.kind === 'event' && !known.events.includes(message.id)) {
      const { code, message: reason } = unheard(session, message.from);
      return this.#rooms.deadLetters.put(code, reason, eventLetterOf(session, message), done);
    }
    if (message.kind === 'task' && !known.tasks.includes(message.task)) {
      const letter = {
        tenant,
        agent: message.agent,
        session,
        task: message.task,
        subject: `task.${tenant}.${message.agent}`,
        body: JSON.stringify(message.input),
        identity: taskIdentity(session, message.task),
      };
      return this.#rooms.deadLetters.put(
        'SESSION_ENDED',
        `session ${session} has ended, and task ${message.task} came after that`,
        letter,
        done,
      );
    }
    this.#telemetry.seen('session-ended');
    done();
  }

  #keep(actor: Actor, incoming: Incoming, stepped: Applied): void {
    const { record } = stepped;
    const { residents, drafts, windows, baselines, wakes } = this.#rooms;
    for (const effect of stepped.settled) windows.answered(effect, undefined);
    drafts.keep(actor, incoming, stepped);
    actor.record = record;
    actor.live = stepped.live;
    actor.remember(incoming, record.version, plainMaxOf(residents.size));
    baselines.need(actor.session, incoming.position.sequence);
    wakes.stepped(actor.session);
    const said = saidIn(stepped);
    this.#telemetry.log(
      isEnded(record) || stepped.happened.kind === 'task-received' || said ? 'info' : 'debug',
      'stepped',
      {
        session: record.session,
        version: record.version,
        shard: this.#shard,
        kind: stepped.happened.kind,
        from: stepped.happened.from,
        to: stepped.happened.to,
        effect: 'effect' in incoming.message ? incoming.message.effect : undefined,
        said,
        trace: record.traceparent,
      },
    );
    if (record.reason?.startsWith('LIMIT_'))
      this.#telemetry.limited(record.reason.slice(0, record.reason.indexOf(':')));
    this.#onDraft();
  }

  /** A message that no step can be made of: a dead letter, and for a crash the session is parked as well. */
  #refuse(actor: Actor, incoming: Incoming, error: unknown, done: () => void): void {
    const { deadLetters } = this.#rooms;
    const isRefusal = error instanceof Refused;
    const code = error instanceof UnderstudyError ? error.code : 'STEP_CRASHED';
    const { message } = incoming;
    const task = message.kind === 'task' ? message.task : actor.record?.task;
    this.#telemetry.log('error', isRefusal ? 'message refused' : 'step crashed', {
      session: actor.session,
      shard: this.#shard,
      code,
      kind: message.kind,
      cause: messageOf(error).slice(0, 200),
    });
    if (!isRefusal && actor.record && actor.definition) {
      const behaviour = behaviourOf(actor.definition.bundle);
      const parked = park(actor.record, incoming, error, actor, false, behaviour);
      if (parked.kind === 'applied') this.#keep(actor, incoming, { ...parked, live: undefined });
    }
    const agent = actor.record?.agent ?? (message.kind === 'task' ? message.agent : 'unknown');
    if (message.kind === 'event')
      return deadLetters.put(code, messageOf(error), eventLetterOf(actor.session, message), done);
    deadLetters.put(
      code,
      messageOf(error),
      {
        tenant: actor.tenant,
        agent,
        session: actor.session,
        task,
        subject: message.kind === 'task' ? `task.${actor.tenant}.${agent}` : '',
        body: JSON.stringify(message.kind === 'task' ? message.input : message),
        identity:
          message.kind === 'task'
            ? taskIdentity(actor.session, message.task)
            : mailIdentity(this.#shard, incoming.position),
      },
      () => (actor.record ? done() : deadLetters.tellParent(message, code, messageOf(error), done)),
    );
  }
}

/** Lines that a user's own machine logged in this step. */
function saidIn({ effects }: Applied): string | undefined {
  const said = effects.flatMap((effect) => (effect.kind === 'log' ? [effect.line] : []));
  return said.length > 0 ? said.join('\n') : undefined;
}

/** Of a session whose machine cannot be loaded, as far as its bundle told. */
const behaviourIn = ({ details }: Refused): number | undefined =>
  typeof details.behaviour === 'number' ? details.behaviour : undefined;
