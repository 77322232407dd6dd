/**
 * The hostile outside world as a process. It remembers in a file, and tells everything it knows at GET /history.
 * Environment: PORT, LOG (file), HOSTILITY (part of the calls that fail or hang up, 0 to 1).
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { type Call, OutsideWorld } from './outside-world.ts';

const { PORT = '8080', LOG = '/tmp/world.jsonl', HOSTILITY = '0.03' } = process.env;
const world = new OutsideWorld();
const accepted: { task: string; tenant: string; at: number }[] = [];

type Line =
  | { readonly kind: 'call' | 'effect'; readonly call: Call }
  | { readonly kind: 'accepted'; readonly tasks: typeof accepted };
const note = (line: Line) => appendFileSync(LOG, `${JSON.stringify(line)}\n`);
if (existsSync(LOG)) {
  for (const text of readFileSync(LOG, 'utf8').split('\n').filter(Boolean)) {
    const line = JSON.parse(text) as Line;
    if (line.kind === 'accepted') accepted.push(...line.tasks);
    else if (line.kind === 'call') world.calls.push(line.call);
    else world.take(line.call);
  }
}
world.onRecord = (kind, call) => note({ kind, call });
world.beforeMs = 60;
world.afterMs = 60;
world.modelMs = 120;
world.refusalRate = Number(HOSTILITY);
world.hangUpRate = Number(HOSTILITY);
await world.start(Number(PORT), '0.0.0.0', (path, text, response) => {
  if (path === '/accepted') {
    const tasks = JSON.parse(text) as typeof accepted;
    accepted.push(...tasks);
    note({ kind: 'accepted', tasks });
    response.writeHead(204).end();
    return true;
  }
  if (path !== '/history') return false;
  response
    .writeHead(200, { 'content-type': 'application/json' })
    .end(
      JSON.stringify({ accepted, calls: world.calls, effects: world.effects, leaks: world.leaks }),
    );
  return true;
});
process.stdout.write(`${JSON.stringify({ listening: PORT })}\n`);
