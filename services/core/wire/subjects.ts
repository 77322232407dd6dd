/** The only place that spells NATS subjects and stream names. Tokens never contain dots. */
import type { AgentName, EffectId, Revision, SessionId, ShardId, TenantId } from '../ids.ts';

export function subjectsOf(prefix = 'understudy') {
  return {
    prefix,
    task: (tenant: TenantId | '*' | string, agent: AgentName | '*' | string) =>
      `${prefix}.task.${tenant}.${agent}`,
    /** An event from outside for a session of a user's own machine. */
    tell: (tenant: TenantId | string, session: SessionId | string) =>
      `${prefix}.tell.${tenant}.${session}`,
    mail: (shard: ShardId | number, tenant: TenantId, session: SessionId) =>
      `${prefix}.mail.${shard}.${tenant}.${session}`,
    mailBatch: (shard: ShardId | number) => `${prefix}.mail.${shard}.batch`,
    mailOf: (shard: ShardId | number) => `${prefix}.mail.${shard}.>`,
    effect: (pool: string, tenant: TenantId | '*') => `${prefix}.effect.${pool}.${tenant}`,
    cancel: (pool: string) => `${prefix}.cancel.${pool}`,
    start: (effect: EffectId | string) => `${prefix}.start.${effect}`,
    /** Notes that are read again for the broker's time. */
    clock: (instance: string) => `${prefix}.clock.${instance}`,
    holds: (performer: string) => `${prefix}.holds.${performer}`,
    event: (tenant: string, agent: string, session: string, kind: string) =>
      `${prefix}.event.${tenant}.${agent}.${session}.${kind}`,
    /** Steps of many sessions, as a CloudEvents batch. No session has this name: all end in a hash. */
    eventBatch: (tenant: string, agent: string) => `${prefix}.event.${tenant}.${agent}.batch.steps`,
    /** Ends of tasks: one subject for each tenant, agent and shard. No session has the name `end`. */
    ends: (tenant: string, agent: string, shard: string) =>
      `${prefix}.event.${tenant}.${agent}.end.${shard}`,
    letter: (tenant: string, agent: string, identity: string, code: string) =>
      `${prefix}.dead.${tenant}.${agent}.${identity}.${code}`,
    /** A tenant asks how its task stands. */
    ask: (tenant: string) => `${prefix}.ask.${tenant}.task`,
    stream: (tenant: TenantId, session: SessionId) => `${prefix}.stream.${tenant}.${session}`,
    archive: (shard: ShardId | number, session: SessionId | '*') =>
      `${prefix}.archive.${shard}.${session}`,
    sessionOfArchive: (subject: string) => subject.slice(subject.lastIndexOf('.') + 1) as SessionId,
    bundle: (revision: Revision | string) => `${prefix}.bundle.${revision}`,
    /** The module of a user's own machine, beside the bundles that name it. */
    machine: (hash: string) => `${prefix}.bundle.machine.${hash}`,
    /** What an MCP server can do: that of the highest number is in force. */
    listing: (hash: string, number: number | '*') => `${prefix}.bundle.listing.${hash}.${number}`,
    /** What a person signed in for, sealed by the executors of a pool. */
    credential: (pool: string, key: string) => `${prefix}.credential.${pool}.${key}`,
    workspace: (tenant: string, session: string, part: string) =>
      `${prefix}.workspace.${tenant}.${session}.${part}`,
    /** An executor asks the owner of a shard whether a call is still waited for. */
    wanted: (shard: ShardId | '*') => `${prefix}.wanted.${shard}`,
    /** Executors are asked whether they have what tools name. */
    check: (pool: string) => `${prefix}.check.${pool}`,
    checked: (id: string) => `${prefix}.checked.${id}`,
    /** One of them is asked what an MCP server can do. */
    server: (pool: string) => `${prefix}.server.${pool}`,
    served: (id: string) => `${prefix}.served.${id}`,
    control: (verb: string) => `${prefix}.control.${verb}`,
    released: `${prefix}.cluster.released`,
    /** Something has changed with an MCP server. */
    listed: `${prefix}.cluster.listed`,
    all: (family: string) => `${prefix}.${family}.>`,
  } as const;
}
export type Subjects = ReturnType<typeof subjectsOf>;

export function streamsOf(prefix = 'understudy') {
  const base = prefix === 'understudy' ? '' : `${prefix.toUpperCase()}_`;
  return {
    tasks: `${base}TASKS`,
    mail: `${base}MAIL`,
    effects: `${base}EFFECTS`,
    starts: `${base}STARTS`,
    events: `${base}EVENTS`,
    dead: `${base}DEAD`,
    archive: `${base}ARCHIVE`,
    bundles: `${base}BUNDLES`,
    workspaces: `${base}WORKSPACES`,
    credentials: `${base}CREDENTIALS`,
  } as const;
}
export type Streams = ReturnType<typeof streamsOf>;
