/** The page as the browser gets it: modules of `page/` without their types, two small libraries, one style sheet. Read once, at the start. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface Asset {
  readonly type: string;
  readonly text: string;
}

export interface Page {
  readonly html: string;
  /** For the content security policy: the only script that stands in the page itself. */
  readonly importMapHash: string;
  asset(path: string): Asset | undefined;
}

const services = join(import.meta.dirname, '..');
const script = 'text/javascript; charset=utf-8';
/** By the names that the modules import them by. */
const libraries = {
  preact: 'preact.js',
  'preact/hooks': 'preact-hooks.js',
  htm: 'htm.js',
} as const;
/** Modules outside of `page/` that it imports. */
const shared = [
  'core/format.ts',
  'core/session/status.ts',
  'core/wire/event-end.ts',
  'core/wire/health-checks.ts',
];

export function loadPage(): Page {
  const assets = new Map<string, Asset>();
  for (const [name, file] of Object.entries(libraries))
    assets.set(`libraries/${file}`, {
      type: script,
      text: readFileSync(fileURLToPath(import.meta.resolve(name)), 'utf8'),
    });
  const own = readdirSync(join(import.meta.dirname, 'page')).map((file) => `console/page/${file}`);
  for (const path of [...own, ...shared]) {
    const text = readFileSync(join(services, path), 'utf8');
    if (path.endsWith('.ts')) assets.set(path, { type: script, text: stripTypeScriptTypes(text) });
    if (path.endsWith('.css')) assets.set(path, { type: 'text/css; charset=utf-8', text });
    if (path.endsWith('.svg')) assets.set(path, { type: 'image/svg+xml', text });
  }
  const importMap = JSON.stringify({
    imports: Object.fromEntries(
      Object.entries(libraries).map(([name, file]) => [name, `/assets/libraries/${file}`]),
    ),
  });
  return {
    html: readFileSync(join(import.meta.dirname, 'page/index.html'), 'utf8').replace(
      'IMPORT_MAP',
      importMap,
    ),
    importMapHash: `'sha256-${createHash('sha256').update(importMap).digest('base64')}'`,
    asset: (path) => assets.get(path),
  };
}
