/** What a commit tells commit.lua, in its order. */
import type { OwnerToken } from '../../core/ids.ts';
import { limits } from '../../core/limits.ts';
import type { Commit, SessionCommit } from '../../ports/session-store.ts';
import type { Arguments } from './gathered-calls.ts';
import { positionText } from './position.ts';

/** Sessions whose conversations the commit touches, in the order of their keys. */
export function conversationsOf({ sessions, archived }: Commit): string[] {
  return [
    ...sessions.filter(({ entries }) => entries.length > 0).map(({ session }) => session),
    ...archived.filter(({ summary }) => summary).map(({ session }) => session),
  ];
}

/** @param keys  how many it has */
export function commitArguments(commit: Commit, token: OwnerToken, keys: number): Arguments {
  const from = commit.from ? positionText(commit.from) : '';
  const args: (string | number)[] = [
    keys,
    token,
    from,
    positionText(commit.to),
    limits.recentSessions,
    commit.outbox?.id ?? '',
    commit.outbox?.body ?? '',
  ];
  args.push(commit.settled.length, ...commit.settled, commit.archived.length);
  for (const { session, version, summary, floor } of commit.archived)
    args.push(session, version, summary ?? '', floor ?? '');
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
  for (const { entriesBefore, entries } of sessions)
    if (entries.length > 0) args.push(entriesBefore, entries.length, ...entries);
  return args;
}

const argumentWeight = 256; // what an argument costs beside its characters

/** What a call with them costs the server, in characters. */
export function weightOf(args: Arguments): number {
  let weight = argumentWeight * args.length;
  for (const arg of args) if (typeof arg === 'string') weight += arg.length;
  return weight;
}
