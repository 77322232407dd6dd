/**
 * The checker as a job: waits until the work is done, asks every witness, and prints verdicts and score as one line of JSON after a table.
 * Exit code 1 when an invariant is broken. Environment: see `sources`.
 */
import { z } from 'zod';
import { collect } from './collect.ts';
import { countersSchema } from './counters.ts';
import { judge, scoreOf } from './invariants.ts';

const environment = z
  .object({
    UNDERSTUDY_NATS_URL: z.string(),
    UNDERSTUDY_NATS_USER: z.string().optional(),
    UNDERSTUDY_NATS_PASSWORD: z.string().optional(),
    UNDERSTUDY_REDIS_URL: z.string(),
    UNDERSTUDY_REDIS_USER: z.string().optional(),
    UNDERSTUDY_REDIS_PASSWORD: z.string().optional(),
    UNDERSTUDY_PREFIX: z.string().default('understudy'),
    UNDERSTUDY_SHARDS: z.coerce.number().int().positive().default(16),
    WORLD_URL: z.string(),
    RUNTIMES: z.string(),
    RUN: z.string().min(1),
    FAULTS: z.string().default('[]'),
    ZOMBIES: z.stringbool().default(false),
    BEFORE: z.string().default('{}'),
    COUNTERS: z.stringbool().default(false),
    BOUND_MS: z.coerce.number().int().positive().default(120_000),
    VERIFY: z.coerce.number().int().nonnegative().default(40),
  })
  .parse(process.env);
const faultsSchema = z.array(
  z.object({ name: z.string(), at: z.number(), healedAt: z.number(), isObserved: z.boolean() }),
);

const history = await collect({
  natsUrl: environment.UNDERSTUDY_NATS_URL,
  natsUser: environment.UNDERSTUDY_NATS_USER,
  natsPassword: environment.UNDERSTUDY_NATS_PASSWORD,
  redisUrl: environment.UNDERSTUDY_REDIS_URL,
  redisUser: environment.UNDERSTUDY_REDIS_USER,
  redisPassword: environment.UNDERSTUDY_REDIS_PASSWORD,
  prefix: environment.UNDERSTUDY_PREFIX,
  shards: environment.UNDERSTUDY_SHARDS,
  worldUrl: environment.WORLD_URL,
  runtimes: environment.RUNTIMES,
  run: environment.RUN,
  faults: faultsSchema.parse(JSON.parse(environment.FAULTS)),
  isZombieExpected: environment.ZOMBIES,
  before: countersSchema.parse(JSON.parse(environment.BEFORE)),
  areCountersJudged: environment.COUNTERS,
  boundMs: environment.BOUND_MS,
  verifyMax: environment.VERIFY,
});
const verdicts = judge(history);
for (const { number, what, result, broken, note } of verdicts) {
  process.stdout.write(
    `${String(number).padStart(2)}  ${result.padEnd(10)}  ${what}${note ? ` (${note})` : ''}\n`,
  );
  for (const one of broken.slice(0, 20)) process.stdout.write(`      ${one}\n`);
}
process.stdout.write(
  `${JSON.stringify({ run: environment.RUN, score: scoreOf(history), verdicts })}\n`,
);
process.exit(verdicts.some(({ result }) => result === 'broken') ? 1 : 0);
