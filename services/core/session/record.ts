/**
 * The stored record of a session: our own format, never XState's persisted snapshot.
 *
 * It names the machine, the machine's version and its own schema, so that a deploy can tell what it
 * reads; `migrate.ts` lifts older ones.
 */

import { z } from 'zod';
import { limitsSchema } from '../budget/budget.ts';
import {
  agentNameSchema,
  revisionSchema,
  sessionIdSchema,
  sha256,
  taskIdSchema,
  tenantIdSchema,
} from '../ids.ts';
import { canonicalText } from '../json.ts';
import { formsSchema } from './machine-state.ts';
import { messageSchema, parentSchema, spentSchema } from './messages.ts';
import { isFinal } from './status.ts';

export const recordSchemaVersion = 2;

/** Where a message stands in MAIL. A stream that went back opens a new incarnation. */
export const positionSchema = z.object({
  incarnation: z.number(),
  sequence: z.number(),
  index: z.number(),
});
export type Position = z.infer<typeof positionSchema>;
export const beginning: Position = { incarnation: 0, sequence: 0, index: 0 };

export function comparePositions(left: Position, right: Position): number {
  return (
    left.incarnation - right.incarnation ||
    left.sequence - right.sequence ||
    left.index - right.index
  );
}

export const statusSchema = z.enum(['active', 'paused', 'completed', 'failed', 'halted', 'parked']);
export type SessionStatus = z.infer<typeof statusSchema>;

/** What a session waits for, and since when. */
export const pendingNoteSchema = z.object({
  kind: z.enum(['callModel', 'runTool', 'startAgent', 'askHuman']),
  what: z.string().describe('model, tool or agent name'),
  pool: z.string().optional(),
  child: sessionIdSchema.optional(),
  invoke: z.string().optional().describe("id of the invoke in a user's own machine"),
  since: z.number(),
  deadlineAt: z.number(),
});
export type PendingNote = z.infer<typeof pendingNoteSchema>;

export const recordSchema = z.object({
  schema: z.literal(recordSchemaVersion),
  machine: z.string(),
  machineVersion: z.number(),
  session: sessionIdSchema,
  tenant: tenantIdSchema,
  agent: agentNameSchema,
  revision: revisionSchema,
  task: taskIdSchema,
  isKeyed: z.boolean(),
  tasksBefore: z
    .array(z.string())
    .optional()
    .describe('of a keyed session: tasks it has taken, so that a repeat is known as one'),
  parent: parentSchema.optional(),
  traceparent: z.string().optional(),
  version: z.number().int().positive(),
  position: positionSchema,
  status: statusSchema,
  value: z.unknown(),
  context: z.record(z.string(), z.unknown()),
  history: z.record(z.string(), z.array(z.object({ id: z.string() }))).optional(),
  output: z.unknown().optional(),
  reason: z.string().optional().describe('why it stopped or is paused, one sentence'),
  startedAt: z.number(),
  changedAt: z.number(),
  length: z.number().describe('conversation entries'),
  pending: z.record(z.string(), pendingNoteSchema),
  timers: z.record(
    z.string(),
    z.object({
      dueAt: z.number(),
      event: z.unknown().optional(),
      order: z.number().optional().describe('as they were set: of those due together the first'),
      id: z.string().optional().describe('the name that cancels it'),
      isUnnamed: z.boolean().optional().describe('its name means another by now'),
      forms: formsSchema.optional().describe('what JSON does not write, by pointer into the event'),
    }),
  ),
  forms: formsSchema
    .optional()
    .describe("of a user's own machine: what JSON does not write, by pointer into the context"),
  nodes: z
    .array(z.string())
    .optional()
    .describe("of a user's own machine with parallel states: ids in the order of their entry"),
  hears: z
    .array(z.string())
    .optional()
    .describe("of a user's own machine: types of events from outside that it listens to now"),
  heard: z
    .array(z.string())
    .optional()
    .describe('ids of events from outside that it has heard, so that a repeat is known as one'),
  children: z
    .array(z.string())
    .optional()
    .describe("of a user's own machine: ids of what it spawned beside its invokes"),
  stopped: z
    .array(z.string())
    .optional()
    .describe("of a user's own machine: invokes of its states whose children it has stopped"),
  budget: z
    .object({
      limits: limitsSchema,
      spent: spentSchema,
      held: z.record(z.string(), spentSchema).describe('reserved for pending effects, by id'),
    })
    .optional()
    .describe("of a session with a user's own machine; the default agent keeps it in its context"),
  decisions: z
    .array(
      z.object({
        approval: z.string(),
        what: z.string(),
        decision: z.enum(['approve', 'reject']),
        actor: z.string(),
        reason: z.string(),
        at: z.number(),
      }),
    )
    .optional()
    .describe('of people, the last twenty'),
  deferred: z.array(z.object({ message: messageSchema, at: z.number() })),
});
export type SessionRecord = z.infer<typeof recordSchema>;

/** Tasks a keyed session remembers; a repeat that comes later than so many others is taken for new. */
export const tasksKept = 256;

/** Tasks that a session knows: its own, and for a keyed session those before it. */
export const tasksOf = (record: SessionRecord): readonly string[] => [
  record.task,
  ...(record.tasksBefore ?? []),
];

/** Events that a session remembers; a repeat that comes later is heard again. */
export const eventsKept = 256;

/** What a session has taken in, by its publishers' ids. */
export interface Known {
  readonly tasks: readonly string[];
  readonly events: readonly string[];
}

export const knownOf = (record: SessionRecord): Known => ({
  tasks: tasksOf(record),
  events: record.heard ?? [],
});

export const isEnded = (record: SessionRecord): boolean => isFinal(record.status);

/** SHA-256 of the record in canonical JSON (RFC 8785): equal states have equal hashes, whatever order their keys have. */
export function stateHashOf(record: SessionRecord): string {
  return sha256(canonicalText(JSON.parse(JSON.stringify(record))));
}

/** When the session next wants to be woken: its earliest deadline or timer, epoch ms. */
export function wakeAtOf(record: SessionRecord): number | undefined {
  // The deadlines of a paused session stand still until it is resumed.
  if (record.status !== 'active') return undefined;
  let earliest: number | undefined;
  for (const id in record.pending) {
    const { deadlineAt } = record.pending[id]!;
    if (earliest === undefined || deadlineAt < earliest) earliest = deadlineAt;
  }
  for (const id in record.timers) {
    const { dueAt } = record.timers[id]!;
    if (earliest === undefined || dueAt < earliest) earliest = dueAt;
  }
  return earliest;
}
