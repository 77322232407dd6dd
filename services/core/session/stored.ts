/** What is stored of a session beside its record, and whether the two agree. */
import { jsonStored } from '../json.ts';

export interface StoredBeside {
  readonly version: string | undefined;
  /** Conversation entries. */
  readonly entries: number;
  /** Ids of all effects of the shard that are pending. */
  readonly pending: ReadonlySet<string>;
}

/** @param record  as stored, JSON */
export function agrees(record: string, { version, entries, pending }: StoredBeside): boolean {
  const read = jsonStored(record) as
    | { version?: unknown; length?: unknown; pending?: object }
    | undefined;
  return (
    typeof read === 'object' &&
    read !== null &&
    String(read.version) === version &&
    read.length === entries &&
    Object.keys(read.pending ?? {}).every((id) => pending.has(id))
  );
}
