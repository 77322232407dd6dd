/** The page as the browser gets it: whatever it imports is served, and nothing else is. */
import { posix } from 'node:path';
import { expect, test } from 'vitest';
import { loadPage } from '../../services/console/page.ts';

const page = loadPage();
const importMap = JSON.parse(/<script type="importmap">(.*?)<\/script>/.exec(page.html)![1]!) as {
  imports: Record<string, string>;
};
const pathOf = (address: string) => address.replace(/^\/assets\//, '');

test('every module that is reached from the page is served, as JavaScript', () => {
  const seen = new Set<string>();
  const look = (path: string) => {
    if (seen.has(path)) return;
    seen.add(path);
    const asset = page.asset(path);
    expect(asset?.type, path).toMatch(/^text\/javascript/);
    expect(asset!.text).not.toMatch(/^(import type|interface|export type) /m);
    for (const [, target = ''] of asset!.text.matchAll(/\bfrom\s*["']([^"']+)["']/g)) {
      look(
        target.startsWith('.')
          ? posix.join(posix.dirname(path), target)
          : pathOf(importMap.imports[target] ?? `missing/${target}`),
      );
    }
  };
  look(pathOf(/<script type="module" src="([^"]+)"/.exec(page.html)![1]!));
  expect(seen.size).toBeGreaterThan(10);
});

test('nothing else of the house is served', () => {
  for (const path of [
    'console/main.ts',
    'console/page/../main.ts',
    'core/ids.ts',
    '../package.json',
    'console/page/tsconfig.json',
    'console/page/index.html',
  ])
    expect(page.asset(path), path).toBeUndefined();
});

test('the page itself holds one script, which its policy names', () => {
  expect(page.html.match(/<script(?![^>]*src=)/g)).toHaveLength(1);
  expect(page.importMapHash).toMatch(/^'sha256-[A-Za-z0-9+/]{43}='$/);
});
