/** CREDENTIALS: the last message of a subject counts, and is replaced by whoever saw it. */
import type { SealedStore } from '../../ports/credentials.ts';
import { lastMessage, type Nats } from './connection.ts';
import { isOvertaken } from './publisher.ts';

/** @param pool  executors of other pools may not write here */
export function natsCredentials(nats: Nats, pool: string): SealedStore {
  const { publisher, streams, subjects } = nats;
  return {
    async read(key) {
      const query = { last_by_subj: subjects.credential(pool, key) };
      const message = await lastMessage(nats, streams.credentials, query);
      return message && { bytes: message.bytes, version: message.seq };
    },
    async write(key, bytes, version) {
      try {
        await publisher.publish(subjects.credential(pool, key), bytes, {
          headers: { 'Nats-Expected-Last-Subject-Sequence': String(version) },
        });
        return true;
      } catch (error) {
        if (!isOvertaken(error)) throw error;
        return false;
      }
    },
  };
}
