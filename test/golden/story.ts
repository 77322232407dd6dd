/**
 * A session as it was stored, and what it folds to. A story is told once, to the code that it
 * is of, and then kept: later code must fold it to the same state.
 */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { esbuildMachines } from '../../services/adapters/esbuild/machines.ts';
import { type Revision, sha256 } from '../../services/core/ids.ts';
import type { Incoming } from '../../services/core/session/draft.ts';
import type { Effect } from '../../services/core/session/effects.ts';
import type { Message } from '../../services/core/session/messages.ts';
import { parseRecord } from '../../services/core/session/migrate.ts';
import { type SessionRecord, stateHashOf } from '../../services/core/session/record.ts';
import { type Bundle, bundleSchema, revisionOf } from '../../services/core/session/specs.ts';
import { park, step } from '../../services/core/session/step.ts';
import { encodeEnvelope, parseMail } from '../../services/core/wire/envelopes.ts';
import { Definitions } from '../../services/runtime/definitions.ts';
import { address, bundleOf } from '../support/sessions.ts';

export const machines = join(import.meta.dirname, 'machines');

/** What a story folds to. Hashes are SHA-256. */
export interface Folds {
  readonly hash: string;
  /** Of the conversation, one entry a line. */
  readonly entries: string;
  /** Ids of the effects that are pending at the end. */
  readonly pending: readonly string[];
  /** Of what each step did, one a line: version, what happened, state, kinds and ids of effects. */
  readonly steps: string;
  readonly replies: readonly string[];
  readonly version: number;
  readonly status: string;
}

export interface Story {
  readonly name: string;
  readonly bundle: Bundle;
  readonly revision: string;
  /** As it stands in MAIL: sequence, the broker's time (epoch ms), and one envelope or an array. */
  readonly mail: readonly {
    readonly sequence: number;
    readonly at: number;
    readonly text: string;
  }[];
  readonly folds: Folds;
  /** The record as it was stored last, JSON. Left out where its hash says enough. */
  readonly record?: unknown;
}

const nameOf = (effect: Effect): string => ('id' in effect ? effect.id : effect.kind);

const linesOf = (values: readonly unknown[]): string =>
  sha256(values.map((value) => JSON.stringify(value)).join('\n'));

export const machineHashOf = (file: string): string =>
  createHash('sha256')
    .update(readFileSync(join(machines, file)))
    .digest('hex')
    .slice(0, 16);

export const definitionsOf = (bundle: unknown): Definitions =>
  new Definitions(
    { bundle: async () => bundleSchema.parse(bundle), machine: async () => undefined },
    [machines],
    esbuildMachines(),
  );

/** Fold what MAIL holds, through JSON after every step, as after a restart. */
export async function foldStory(
  bundle: unknown,
  revision: string,
  mail: Story['mail'],
): Promise<{ folds: Folds; record: SessionRecord }> {
  const definition = await definitionsOf(bundle).get(revision as Revision);
  let record: SessionRecord | undefined;
  const entries: unknown[] = [];
  const steps: unknown[] = [];
  const replies: string[] = [];
  const pending = new Set<string>();
  for (const { sequence, at, text } of mail) {
    parseMail(text).forEach((item, index) => {
      if (!item.ok) throw new Error(`sequence ${sequence}: ${item.problem}`);
      const position = { incarnation: 0, sequence, index };
      const stepped = stepped1(record, { message: item.envelope.message, at, position });
      if (stepped?.kind !== 'applied') return;
      record = parseRecord(JSON.stringify(stepped.record));
      entries.push(...stepped.entries);
      for (const effect of stepped.effects) {
        if ('id' in effect) pending.add(effect.id);
        if (effect.kind === 'reply') replies.push(`${effect.task} ${effect.outcome}`);
      }
      for (const id of stepped.settled) pending.delete(id);
      const { kind, to } = stepped.happened;
      steps.push([record.version, kind, to, stepped.effects.map(nameOf)]);
    });
  }
  function stepped1(before: SessionRecord | undefined, incoming: Incoming) {
    try {
      return step(before, incoming, definition, address);
    } catch (error) {
      if ((error as Error).name === 'Refused' || !before) return undefined;
      return park(before, incoming, error, address);
    }
  }
  if (!record) throw new Error('nothing began');
  return {
    record,
    folds: {
      hash: stateHashOf(record),
      entries: linesOf(entries),
      pending: [...pending].sort(),
      steps: linesOf(steps),
      replies,
      version: record.version,
      status: record.status,
    },
  };
}

/** Tells a story: each message is written down as MAIL holds it, and heard at once. */
export class Teller {
  readonly bundle: Bundle;
  readonly mail: { sequence: number; at: number; text: string }[] = [];
  record: SessionRecord | undefined;
  at = 1_790_000_000_000;
  #sequence = 100;
  readonly #definition;

  private constructor(bundle: Bundle, definition: Awaited<ReturnType<Definitions['get']>>) {
    this.bundle = bundle;
    this.#definition = definition;
  }

  /** @param tools  more of them, as the keyed tool `pay` */
  static async of(
    spec: Parameters<typeof bundleOf>[0] = {},
    tools: readonly string[] = [],
  ): Promise<Teller> {
    const machine = spec.machine ? { machineHash: machineHashOf(spec.machine) } : {};
    const bundle = { ...bundleOf(spec), ...machine };
    for (const name of tools) bundle.tools[name] = bundle.tools.pay!;
    const definition = await definitionsOf(bundle).get(revisionOf(bundle));
    return new Teller(bundle, definition);
  }

  /** @param messages  of one message of MAIL: more than one make an array */
  say(messages: Message | readonly Message[], afterMs = 7): this {
    this.at += afterMs;
    this.#sequence += 1;
    const all = Array.isArray(messages) ? (messages as readonly Message[]) : [messages as Message];
    const texts = all.map((message) => encodeEnvelope({ ...address, message }));
    const text = texts.length > 1 ? `[${texts.join(',')}]` : texts[0]!;
    this.mail.push({ sequence: this.#sequence, at: this.at, text });
    parseMail(text).forEach((item, index) => {
      if (!item.ok) throw new Error(item.problem);
      const position = { incarnation: 0, sequence: this.#sequence, index };
      const incoming = { message: item.envelope.message, at: this.at, position };
      try {
        const stored = this.record && parseRecord(JSON.stringify(this.record));
        const stepped = step(stored, incoming, this.#definition, address);
        if (stepped.kind === 'applied') this.record = stepped.record;
      } catch (error) {
        if ((error as Error).name !== 'Refused') throw error;
      }
    });
    return this;
  }

  /** The ids of what is pending, of a kind, in order. */
  pending(kind: string): string[] {
    const notes = Object.entries(this.record?.pending ?? {});
    return notes.filter(([, note]) => note.kind === kind).map(([id]) => id);
  }
  one(kind: string): string {
    const [id] = this.pending(kind);
    if (!id) throw new Error(`no ${kind} is pending`);
    return id;
  }
  hashOf(approval: string): string {
    const { approvals } = this.record!.context as { approvals: Record<string, { hash: string }> };
    return approvals[approval]!.hash;
  }

  async end(name: string, isWhole = true): Promise<Story> {
    const bundle = JSON.parse(JSON.stringify(this.bundle)) as Bundle;
    const revision = revisionOf(this.bundle);
    const { folds, record } = await foldStory(bundle, revision, this.mail);
    return { name, bundle, revision, mail: this.mail, folds, ...(isWhole ? { record } : {}) };
  }
}
