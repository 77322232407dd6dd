/** What documents may name of a process: never what its services have for themselves. */
import { expect, test } from 'vitest';
import { troublesOf } from '../../services/core/tools/environment-check.ts';
import { documentEnvironment, expandEnvironment } from '../../services/core/tools/placeholders.ts';

test.each([
  'UNDERSTUDY_NATS_PASSWORD',
  'UNDERSTUDY_CREDENTIAL_KEY',
  'UNDERSTUDY_REDIS_PASSWORD',
  'understudy_nats_password',
])('%s counts as not set, wherever a document sends it', (name) => {
  const environment = documentEnvironment({ [name]: 'secret', SHOP: 'shop' });
  expect(expandEnvironment(`x \${env:${name}}`, environment)).toEqual({
    ok: false,
    missing: [name],
  });
  expect(expandEnvironment('${env:SHOP}', environment)).toEqual({ ok: true, text: 'shop' });
  const texts = [{ field: 'run.headers', text: `\${env:${name}}` }];
  expect(JSON.stringify(troublesOf([{ tool: 't', texts }], environment))).toContain('is not set');
});
