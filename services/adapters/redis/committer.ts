/**
 * Commits on their way to Redis: those that are asked for in one turn go as one call of the commit script, each for itself.
 *
 * A shard alone has few sessions to commit at a time, and each call costs both sides as much as what is in it.
 */
import type { OwnerToken } from '../../core/ids.ts';
import { limits } from '../../core/limits.ts';
import type { ShardKeys } from '../../core/wire/keys.ts';
import type { Commit, SessionCommit } from '../../ports/session-store.ts';
import { positionText } from './position.ts';
import type { ScriptedRedis } from './scripts.ts';

type Arguments = (string | number)[];

interface Asked {
  readonly keys: readonly string[];
  readonly args: Arguments;
  readonly resolve: (result: string) => void;
  readonly reject: (error: unknown) => void;
}

const callArgumentsMax = 10_000; // the script holds up every other client of the server for some milliseconds then

export class Committer {
  readonly #redis: ScriptedRedis;
  #asked: Asked[] = [];
  #arguments = 0;

  constructor(redis: ScriptedRedis) {
    this.#redis = redis;
  }

  /** @returns OK, FENCED, STALE, or ERROR and what Redis said of this commit. @throws what ioredis throws when there was no answer to the call */
  commit(keys: ShardKeys, token: OwnerToken, commit: Commit): Promise<string> {
    const { owner, position, records, versions, pending, outbox, wakes, floors, recent } = keys;
    const args = argumentsOf(commit, token, keys.conversation(''));
    return new Promise((resolve, reject) => {
      // The shards of a cluster lie on different servers, and no script may touch two of them.
      if (this.#redis.isCluster || this.#arguments + args.length > callArgumentsMax) this.#send();
      this.#arguments += args.length;
      if (this.#asked.push({ keys: [owner, position, records, versions, pending, outbox, wakes, floors, recent], args, resolve, reject }) === 1) queueMicrotask(() => this.#send());
    });
  }

  #send(): void {
    const asked = this.#asked;
    if (asked.length === 0) return;
    this.#asked = [];
    this.#arguments = 0;
    const keys = asked.flatMap((one) => one.keys);
    const args = asked.flatMap((one) => [one.args.length, ...one.args]);
    this.#redis.understudyCommit(keys.length, keys, args).then(
      (results) => {
        for (const [index, { resolve }] of asked.entries()) resolve(String(results[index]));
      },
      (error: unknown) => {
        for (const { reject } of asked) reject(error);
      },
    );
  }
}

/** As commit.lua reads them. */
function argumentsOf(commit: Commit, token: OwnerToken, conversationPrefix: string): Arguments {
  const from = commit.from ? positionText(commit.from) : '';
  const args: Arguments = [token, from, positionText(commit.to), conversationPrefix, limits.recentSessions, commit.outbox?.id ?? '', commit.outbox?.body ?? ''];
  args.push(commit.settled.length, ...commit.settled, commit.archived.length);
  for (const { session, version, summary, floor } of commit.archived) args.push(session, version, summary ?? '', floor ?? '');
  // What goes to one key stands together, so that the script writes it with one command.
  const { sessions } = commit;
  args.push(sessions.length);
  for (const { session } of sessions) args.push(session);
  for (const { expectedVersion } of sessions) args.push(expectedVersion);
  for (const { session, version } of sessions) args.push(session, version);
  for (const { session, record } of sessions) args.push(session, record);
  const list = (fill: (one: SessionCommit) => void) => {
    const at = args.push(0) - 1;
    for (const one of sessions) fill(one);
    args[at] = args.length - at - 1;
  };
  list(({ session, wakeAt }) => wakeAt !== undefined && args.push(wakeAt, session));
  list(({ session, wakeAt }) => wakeAt === undefined && args.push(session));
  list(({ session, floor }) => floor !== undefined && args.push(floor, session));
  list(({ pending }) => {
    for (const { id, body } of pending) args.push(id, body);
  });
  list(({ resolved }) => args.push(...resolved));
  for (const { session, entries } of sessions) if (entries.length > 0) args.push(session, entries.length, ...entries);
  return args;
}
