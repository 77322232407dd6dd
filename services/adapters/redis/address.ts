/**
 * How a Redis is named, in one line:
 *
 *   redis://host:6379                              one server (or what looks like one: a managed service, a proxy)
 *   redis-sentinel://a:26379,b:26379#mymaster      the master of that name, found by its sentinels
 *   redis-cluster://a:6379,b:6379                  a cluster, known by some of its nodes
 *
 * With `rediss` in the place of `redis` connections are encrypted. Users and passwords are not part of it: they are secrets.
 */
import { Refused } from '../../core/errors.ts';

export interface Node {
  readonly host: string;
  readonly port: number;
}

export type RedisAddress =
  | { readonly kind: 'single'; readonly url: string }
  | {
      readonly kind: 'sentinel';
      readonly nodes: readonly Node[];
      readonly master: string;
      readonly isEncrypted: boolean;
    }
  | { readonly kind: 'cluster'; readonly nodes: readonly Node[]; readonly isEncrypted: boolean };

/** @throws Refused (REDIS_URL_INVALID) with what a right one looks like */
export function parseRedisAddress(text: string): RedisAddress {
  const [, scheme = '', kind, hosts = '', master = ''] =
    /^(rediss?)(?:-(sentinel|cluster))?:\/\/([^#]*)(?:#(.*))?$/.exec(text) ?? [];
  const refuse = (why: string) =>
    new Refused(
      'REDIS_URL_INVALID',
      `${why}; write redis://host:6379, redis-sentinel://a:26379,b:26379#name-of-the-master, or redis-cluster://a:6379,b:6379`,
    );
  if (!scheme) throw refuse('not the address of a Redis');
  if (!kind) {
    if (!URL.canParse(text) || new URL(text).hostname === '')
      throw refuse('the address of Redis does not parse');
    return { kind: 'single', url: text };
  }
  if (hosts.includes('@'))
    throw refuse('no user or password stands in the address of sentinels or of a cluster');
  const nodes = hosts
    .replace(/\/+$/, '')
    .split(',')
    .map((one) => nodeOf(one, kind === 'sentinel' ? 26_379 : 6_379));
  if (nodes.some((node) => node === undefined)) throw refuse('a node is host or host:port');
  const all = nodes as Node[];
  const isEncrypted = scheme === 'rediss';
  if (kind === 'cluster') return { kind, nodes: all, isEncrypted };
  if (!master) throw refuse('sentinels are asked for a master by its name, which stands after #');
  return { kind: 'sentinel', nodes: all, master, isEncrypted };
}

function nodeOf(text: string, fallback: number): Node | undefined {
  const parsed = URL.canParse(`tcp://${text}`) ? new URL(`tcp://${text}`) : undefined;
  if (!parsed?.hostname || parsed.pathname !== '') return undefined;
  return {
    host: parsed.hostname.replace(/^\[|\]$/g, ''),
    port: parsed.port === '' ? fallback : Number(parsed.port),
  };
}
