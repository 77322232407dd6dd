/** The rule of the house: only a main knows an adapter, only an adapter knows a vendor, the core knows nobody; no circles. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';

const services = join(import.meta.dirname, '../services');
const files = readdirSync(services, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
  .map((entry) => join(entry.parentPath, entry.name));

interface Import {
  readonly from: string;
  readonly to: string;
  readonly isOwn: boolean;
}
const imports: Import[] = files.flatMap((file) =>
  [
    ...readFileSync(file, 'utf8').matchAll(
      /(?:^|\n)\s*(?:import|export)[^'";]*?from '([^']+)'|(?:^|\n)import '([^']+)'/g,
    ),
  ].map((match) => {
    const target = match[1] ?? match[2] ?? '';
    const isOwn = target.startsWith('.');
    return {
      from: relative(services, file),
      to: isOwn ? relative(services, resolve(dirname(file), target)) : target,
      isOwn,
    };
  }),
);
const room = (path: string) => path.split('/')[0]!;
const own = imports.filter(({ isOwn }) => isOwn);
const outside = imports.filter(({ isOwn }) => !isOwn);
const show = (found: readonly Import[]) => found.map(({ from, to }) => `${from} -> ${to}`);

/** Where things that put the whole system together live. */
const isAssembly = (path: string) =>
  path.endsWith('main.ts') || room(path) === 'local' || path === 'cli/main.ts';

describe('imports', () => {
  test('there are some to look at', () => expect(imports.length).toBeGreaterThan(300));

  test('the core imports itself, xstate, zod, canonicalize, what reads JSON Schema, a hash, and what ends code that runs in circles, nothing else', () => {
    const allowed = new Set([
      'xstate',
      'zod',
      'canonicalize',
      'node:crypto',
      'node:vm',
      'ajv',
      'ajv/dist/2019.js',
      'ajv/dist/2020.js',
      'ajv-formats',
      're2js',
    ]);
    expect(
      show(
        imports.filter(
          ({ from, to, isOwn }) =>
            room(from) === 'core' && (isOwn ? room(to) !== 'core' : !allowed.has(to)),
        ),
      ),
    ).toEqual([]);
  });

  test('ports import only the core', () => {
    expect(
      show(
        imports.filter(
          ({ from, to, isOwn }) =>
            room(from) === 'ports' && !(isOwn && (room(to) === 'core' || room(to) === 'ports')),
        ),
      ),
    ).toEqual([]);
  });

  test('adapters import core and ports, and no adapter imports another', () => {
    expect(
      show(
        own.filter(({ from, to }) => {
          if (room(from) !== 'adapters') return false;
          if (room(to) === 'adapters') return from.split('/')[1] !== to.split('/')[1];
          return room(to) !== 'core' && room(to) !== 'ports';
        }),
      ),
    ).toEqual([]);
  });

  test('only a main, and what assembles a local system, knows an adapter', () => {
    expect(
      show(
        own.filter(
          ({ from, to }) =>
            room(to) === 'adapters' && room(from) !== 'adapters' && !isAssembly(from),
        ),
      ),
    ).toEqual([]);
  });

  test('each vendor is known to one adapter folder', () => {
    const home: Readonly<Record<string, string>> = {
      nats: 'nats',
      ioredis: 'redis',
      'rate-limiter-flexible': 'redis',
      openai: 'openai',
      undici: 'openai',
      '@modelcontextprotocol/client': 'mcp',
      'prom-client': 'observability',
      pino: 'observability',
      esbuild: 'esbuild',
      ajv: 'core',
      'ajv-formats': 'core',
      re2js: 'core',
      yaml: 'files',
      '@kubernetes/client-node': 'kubernetes',
      commander: 'cli',
      preact: 'console',
      htm: 'console',
    };
    /** Probes of every service, and the console's own pages. */
    const servesHttp = /^(adapters\/observability|console)\//;
    const strays = outside.filter(({ from, to }) => {
      if (to.startsWith('node:') || ['xstate', 'zod', 'canonicalize'].includes(to)) return false;
      if (to === '@hono/node-server' || /^hono(\/|$)/.test(to)) return !servesHttp.test(from);
      const vendor = Object.keys(home).find((name) => to === name || to.startsWith(`${name}/`));
      return (
        vendor === undefined ||
        !(from.startsWith(`adapters/${home[vendor]}/`) || from.startsWith(`${home[vendor]}/`))
      );
    });
    expect(show(strays)).toEqual([]);
  });

  test('xstate is driven in the core only; a runtime may hold a machine as a type', () => {
    const strays = outside.filter(
      ({ from, to }) => to === 'xstate' && room(from) !== 'core' && room(from) !== 'runtime',
    );
    expect(show(strays)).toEqual([]);
    for (const { from } of outside.filter(
      ({ from, to }) => to === 'xstate' && room(from) === 'runtime',
    )) {
      expect(readFileSync(join(services, from), 'utf8')).toMatch(
        /import type \{[^}]*\} from 'xstate'/,
      );
    }
  });

  test('nobody imports a main', () => {
    expect(show(own.filter(({ to }) => to.endsWith('main.ts')))).toEqual([]);
  });

  test('the sandbox imports nothing but itself: no other room, no vendor', () => {
    expect(
      show(
        imports.filter(
          ({ from, to }) =>
            room(from) === 'sandbox' && !to.startsWith('node:') && !to.startsWith('sandbox/'),
        ),
      ),
    ).toEqual([]);
  });

  test('no file imports itself by a detour', () => {
    const graph = new Map<string, string[]>();
    for (const { from, to } of own) graph.set(from, [...(graph.get(from) ?? []), to]);
    const circles: string[] = [];
    const done = new Set<string>();
    const walk = (file: string, path: readonly string[]): void => {
      if (path.includes(file))
        return void circles.push([...path.slice(path.indexOf(file)), file].join(' -> '));
      if (done.has(file)) return;
      for (const next of graph.get(file) ?? []) walk(next, [...path, file]);
      done.add(file);
    };
    for (const file of graph.keys()) walk(file, []);
    expect(circles).toEqual([]);
  });
});

test('file names are kebab-case and none is a drawer', () => {
  const names = files.map((file) => relative(services, file));
  expect(names.filter((name) => !/^[a-z0-9/-]+\.ts$/.test(name))).toEqual([]);
  expect(names.filter((name) => /util|helper|common|misc|manager|impl/.test(name))).toEqual([]);
});
