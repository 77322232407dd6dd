/**
 * Lifts a stored record to today's schema. Each lift is one function from a schema to the next, kept
 * for ever; the golden files in test/golden/records hold a record of every schema that was ever stored.
 */
import { issuesOf, Refused } from '../errors.ts';
import { recordSchema, recordSchemaVersion, type SessionRecord } from './record.ts';

type Stored = Record<string, unknown> & { schema: number };

const lifts: Readonly<Record<number, (record: Stored) => Stored>> = {
  /** Schema 1 kept the mailbox position as one number, knew no incarnations and no deferred messages. */
  1: ({ sequence, ...record }) => ({
    ...record,
    schema: 2,
    position: { incarnation: 0, sequence: sequence as number, index: 0 },
    deferred: [],
    isKeyed: (record.isKeyed as boolean | undefined) ?? false,
  }),
};

/** @throws Refused when the text is no record, or one from a newer release */
export function parseRecord(text: string): SessionRecord {
  let stored: Stored;
  try {
    stored = JSON.parse(text) as Stored;
  } catch (error) {
    throw new Refused('RECORD_POISONED', 'a stored session record is not JSON', { cause: error });
  }
  if (typeof stored !== 'object' || stored === null || typeof stored.schema !== 'number') {
    throw new Refused('RECORD_POISONED', 'a stored session record has no schema number');
  }
  if (stored.schema > recordSchemaVersion) {
    throw new Refused(
      'RECORD_NEWER',
      `a stored session record has schema ${stored.schema}; this release knows ${recordSchemaVersion}`,
    );
  }
  while (stored.schema < recordSchemaVersion) {
    const lift = lifts[stored.schema];
    if (!lift)
      throw new Refused(
        'RECORD_POISONED',
        `nothing lifts a session record from schema ${stored.schema}`,
      );
    stored = lift(stored);
  }
  const parsed = recordSchema.safeParse(stored);
  if (!parsed.success)
    throw new Refused(
      'RECORD_POISONED',
      `a stored session record does not parse: ${issuesOf(parsed.error)}`,
    );
  return parsed.data;
}
