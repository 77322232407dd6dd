/** The streams, spelled out: retention, storage and limits stand here even where they equal the defaults. */
import { DiscardPolicy, nanos, RetentionPolicy, StorageType, type StreamConfig } from 'nats';
import { Unavailable } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import type { Nats } from './connection.ts';

export type StreamName = keyof Nats['streams'];

const day = 86_400_000;

function configOf(
  nats: Pick<Nats, 'streams' | 'subjects' | 'replicas'>,
  name: StreamName,
): Partial<StreamConfig> & { name: string; subjects: string[] } {
  const { streams, subjects } = nats;
  const common = {
    num_replicas: nats.replicas,
    storage: StorageType.File,
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.Old,
    max_age: 0,
    allow_direct: true,
  };
  switch (name) {
    case 'tasks':
      // The broker's window knows ids of all tenants: as short as the server allows. The session
      // knows its tasks.
      return {
        ...common,
        name: streams.tasks,
        subjects: [subjects.all('task'), subjects.all('tell')],
        retention: RetentionPolicy.Workqueue,
        discard: DiscardPolicy.New,
        duplicate_window: nanos(100),
      };
    case 'mail':
      // Nothing rests on the broker's dedupe, and an id in it costs 140 bytes: the shortest window.
      return {
        ...common,
        name: streams.mail,
        subjects: [subjects.all('mail')],
        discard: DiscardPolicy.New,
        duplicate_window: nanos(1_000),
      };
    case 'effects':
      // What is pending stands in the session store and is offered again: this may live in memory.
      return {
        ...common,
        name: streams.effects,
        subjects: [subjects.all('effect')],
        retention: RetentionPolicy.Workqueue,
        storage: StorageType.Memory,
        discard: DiscardPolicy.New,
        duplicate_window: nanos(1_000),
      };
    case 'starts':
      return {
        ...common,
        name: streams.starts,
        subjects: [subjects.all('start'), subjects.all('clock')],
        max_age: nanos(limits.startsMaxAgeMs),
        max_msgs_per_subject: 1,
        discard: DiscardPolicy.New,
        discard_new_per_subject: false,
        duplicate_window: nanos(1_000),
      };
    case 'events':
      return {
        ...common,
        name: streams.events,
        subjects: [subjects.all('event')],
        max_age: nanos(7 * day),
        max_bytes: 2 * 1024 ** 3,
        duplicate_window: nanos(1_000),
      };
    case 'dead':
      return {
        ...common,
        name: streams.dead,
        subjects: [subjects.all('dead')],
        duplicate_window: nanos(100),
      };
    case 'archive':
      return {
        ...common,
        name: streams.archive,
        subjects: [subjects.all('archive')],
        max_age: nanos(limits.archiveMaxAgeMs),
        duplicate_window: nanos(1_000),
      };
    case 'workspaces':
      return {
        ...common,
        name: streams.workspaces,
        subjects: [subjects.all('workspace')],
        max_msgs_per_subject: 1,
        max_age: nanos(limits.workspaceMaxAgeMs),
        // Full is refused, so that no tenant's files push out another's.
        discard: DiscardPolicy.New,
        max_bytes: 2 * 1024 ** 3,
        duplicate_window: nanos(1_000),
      };
    case 'credentials':
      return {
        ...common,
        name: streams.credentials,
        subjects: [subjects.all('credential')],
        max_msgs_per_subject: 1,
        // Executors run foreign code: what they write here is bounded.
        discard: DiscardPolicy.New,
        max_bytes: 64 * 1024 ** 2,
        duplicate_window: nanos(1_000),
      };
    case 'bundles':
      return {
        ...common,
        name: streams.bundles,
        subjects: [subjects.all('bundle')],
        max_msgs_per_subject: 1,
        duplicate_window: nanos(1_000),
      };
  }
}

export const allStreams: readonly StreamName[] = [
  'tasks',
  'mail',
  'effects',
  'starts',
  'events',
  'dead',
  'archive',
  'bundles',
  'workspaces',
];

/** Whose users lack the right to make these miss a capability, and no more. */
export const optionalStreams: readonly StreamName[] = ['credentials'];

/**
 * Fields of a stream that follow from this code. All others are the operator's once the stream is
 * there: bytes, age, replicas, placement.
 */
const ours = [
  'subjects',
  'duplicate_window',
  'max_msgs_per_subject',
  'discard_new_per_subject',
  'allow_direct',
] as const satisfies readonly (keyof StreamConfig)[];

/**
 * Make the streams that are missing. An existing stream is left as it is.
 *
 * @returns the names of those that were made now
 */
export async function declareStreams(
  nats: Nats,
  names: readonly StreamName[] = allStreams,
): Promise<StreamName[]> {
  const made = await Promise.all(
    names.map(async (name) => ((await declare(nats, name)) ? [name] : [])),
  );
  return made.flat();
}

/** @returns whether it was missing */
async function declare(nats: Nats, name: StreamName): Promise<boolean> {
  const config = configOf(nats, name);
  try {
    await nats.manager.streams.info(config.name);
    return false;
  } catch (error) {
    if (!isNotFound(error))
      throw new Unavailable('NATS_UNAVAILABLE', `could not look at stream ${config.name}`, {
        cause: error,
      });
  }
  try {
    await nats.manager.streams.add(config as never);
    return true;
  } catch (error) {
    // Another service may have made it in the meantime.
    try {
      await nats.manager.streams.info(config.name);
      return false;
    } catch {
      throw new Unavailable('NATS_UNAVAILABLE', `could not make stream ${config.name}`, {
        cause: error,
      });
    }
  }
}

/**
 * Give the streams that exist those fields that are ours, as this version wants them. What belongs
 * to the operator stays.
 *
 * @returns names of the streams that were changed
 * @throws Unavailable when the broker does not answer or refuses
 */
export async function updateStreams(
  nats: Nats,
  names: readonly StreamName[] = allStreams,
): Promise<string[]> {
  const updated: string[] = [];
  for (const name of names) {
    const wanted = configOf(nats, name);
    try {
      const { config } = await nats.manager.streams.info(wanted.name);
      const fields = ours.filter((field) => wanted[field] !== undefined);
      // A server that does not know a field leaves it out: that is its default.
      const isSame = (field: (typeof ours)[number]) =>
        JSON.stringify(config[field] ?? defaults[field]) === JSON.stringify(wanted[field]);
      if (fields.every(isSame)) continue;
      const changed = Object.fromEntries(fields.map((field) => [field, wanted[field]]));
      await nats.manager.streams.update(wanted.name, { ...config, ...changed });
      updated.push(wanted.name);
    } catch (error) {
      throw new Unavailable('NATS_UNAVAILABLE', `could not update stream ${wanted.name}`, {
        cause: error,
      });
    }
  }
  return updated;
}
const defaults: Partial<Record<(typeof ours)[number], unknown>> = {
  discard_new_per_subject: false,
  max_msgs_per_subject: -1,
};

export function isNotFound(error: unknown): boolean {
  const api = (error as { api_error?: { code?: number; err_code?: number } }).api_error;
  return api?.code === 404;
}
