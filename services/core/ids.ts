/**
 * Identities. Every id is one NATS subject token: letters, digits, `-` and `_`, never a dot.
 *
 * Ids are derived, never drawn by lot: the same task published twice names the same session, and
 * the same step run twice names the same effects. Replay, dedupe and idempotency rest on that.
 */
import { hash } from 'node:crypto';
import { z } from 'zod';

export type TenantId = string & { readonly kind: 'TenantId' };
export type AgentName = string & { readonly kind: 'AgentName' };
export type SessionId = string & { readonly kind: 'SessionId' };
export type TaskId = string & { readonly kind: 'TaskId' };
export type EffectId = string & { readonly kind: 'EffectId' };
export type HostId = string & { readonly kind: 'HostId' };
export type OwnerToken = string & { readonly kind: 'OwnerToken' };
export type Revision = string & { readonly kind: 'Revision' };
export type ShardId = number & { readonly kind: 'ShardId' };

const token = /^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$/;
const longToken = /^[A-Za-z0-9][A-Za-z0-9_-]{0,126}$/;

/** The type's brand costs nothing at run time: a `transform` would, several times a message. */
const named = <Id extends string>(schema: z.ZodString) =>
  schema as unknown as z.ZodType<Id, string>;

const tokenOf = <Id extends string>(what: string, pattern: RegExp) =>
  named<Id>(
    z
      .string()
      .regex(pattern, `${what} must be letters, digits, - or _ (no dots), and not too long`),
  );

export const tenantIdSchema = tokenOf<TenantId>('tenant', token);
export const agentNameSchema = tokenOf<AgentName>('agent name', token);
export const sessionIdSchema = tokenOf<SessionId>('session id', longToken);
export const effectIdSchema = tokenOf<EffectId>('effect id', longToken);
export const revisionSchema = tokenOf<Revision>('revision', token);
/** A task id or a session key comes from the publisher and is hashed, so any printable text will do. */
export const taskIdSchema = named<TaskId>(z.string().min(1).max(256));

/** SHA-256 as lower-case hex. */
export function sha256(text: string): string {
  return hash('sha256', text, 'hex');
}

/**
 * The session of a task: agent name, a dash and 80 bits of a hash over tenant, agent and task id
 * (or session key). 80 bits keep the chance of any collision below 1e-6 up to a billion sessions.
 */
export function sessionIdOf(tenant: TenantId, agent: AgentName, taskOrKey: string): SessionId {
  return `${agent}-${sha256(`${tenant}\n${agent}\n${taskOrKey}`).slice(0, 20)}` as SessionId;
}

/** The agent of a session, as its id tells it. */
export const agentOf = (session: string): string =>
  /^(.+)-[0-9a-f]{20}$/.exec(session)?.[1] ?? 'unknown';

/**
 * What the session of a task derives from. Keys (`key/...`) and children (an effect's id) have name
 * spaces of their own: a task id that looks like one of them gets a prefix, every other stays as it
 * is, so that a task that is published again finds its session.
 */
export const taskSeedOf = (task: string): string =>
  /^(?:key|task)\/|_\d+_\d+$/.test(task) ? `task/${task}` : task;

/** What a keyed session derives from. */
export const keySeedOf = (key: string): string => `key/${key}`;

/** The effect `index` of the step that made `version` of a session: its idempotency key everywhere. */
export function effectIdOf(session: SessionId, version: number, index: number): EffectId {
  return `${session}_${version}_${index}` as EffectId;
}

/** `shard = hash(tenant, session) mod P`, FNV-1a with 32 bits. */
export function shardOf(tenant: TenantId, session: SessionId, shards: number): ShardId {
  return (fnv1a(`${tenant}/${session}`) % shards) as ShardId;
}

/** FNV-1a, 32 bits (Fowler, Noll, Vo), finished with the mixer of MurmurHash3 so that low bits are even. */
export function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index += 1) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
