/** What doctor is told of Models: what is not set for them here, and who wants no calls now. */
import { expect, test } from 'vitest';
import { memoryDoors } from '../../services/adapters/memory/doors.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { openaiModel } from '../../services/adapters/openai/model.ts';
import { modelSpecSchema } from '../../services/core/session/model-spec.ts';
import { modelTroubles } from '../../services/gateway/troubles.ts';

const price = { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 };
const named = (name: string, more: object) => ({
  ...modelSpecSchema.parse({ model: 'm', price, ...more }),
  name,
});
const environment = { OPENAI_API_KEY: 'sk-1234567890', ODD: 'no address' };
const model = openaiModel(environment, systemClock);

test('a variable that is not set is named, and no value', async () => {
  const doors = memoryDoors(systemClock);
  const told = await modelTroubles(
    [
      named('good', {}),
      named('keyless', { apiKeyEnv: 'GONE' }),
      named('far', { baseUrl: '${env:FAR}/v1' }),
      named('odd', { baseUrl: '${env:ODD}' }),
      named('headed', { headers: { x: '${env:HEAD}' } }),
    ],
    { model, doors, clock: systemClock },
  );
  expect(told.map(({ kind, tool, message }) => [kind, tool, message])).toEqual([
    ['model', 'keyless', 'needs a key in GONE'],
    ['model', 'far', 'FAR is not set for this gateway'],
    ['model', 'odd', expect.stringContaining('ODD of this gateway')],
    ['model', 'headed', 'HEAD is not set for this gateway'],
  ]);
  expect(JSON.stringify(told)).not.toMatch(/sk-1234567890|no address/);
});

test('a Model that wants no calls is something to look at, with its reason, until it opens', async () => {
  const doors = memoryDoors(systemClock);
  const spec = named('busy', {});
  const now = systemClock.now();
  const why = { since: now - 5_000, times: 3, code: 'MODEL_OVERLOADED', message: 'answered 503' };
  await doors.shut(model.doorOf!(spec)!, { ...why, openAt: now + 9_000 });
  const ports = { model, doors, clock: systemClock };
  expect(await modelTroubles([spec], ports)).toMatchObject([
    {
      kind: 'model',
      tool: 'busy',
      isNote: true,
      message: expect.stringMatching(
        /^wants no calls for \d s, and has not since [56] s: MODEL_OVERLOADED: answered 503$/,
      ),
    },
  ]);
  await doors.shut(model.doorOf!(spec)!, { ...why, openAt: now - 1 });
  expect(await modelTroubles([spec], ports)).toEqual([]);
});
