/** Publishes one task per case with an ordinary NATS client, as any program would: plain JSON, and a header with the id of the task. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect, headers } from 'nats';

const {
  NATS_URL = 'nats://127.0.0.1:4222',
  PER_SECOND = '12',
  PREFIX = 'understudy',
  TASKS = '',
} = process.env;
const cases = readFileSync(join(import.meta.dirname, 'data/cases.csv'), 'utf8')
  .trim()
  .split('\n')
  .slice(1, TASKS === '' ? undefined : Number(TASKS) + 1)
  .map((line) => line.split(','));

const connection = await connect({ servers: NATS_URL });
const jetstream = connection.jetstream();
const publish = async (subject: string, body: string, id: string) => {
  const header = headers();
  header.set('Understudy-Task', id);
  await jetstream.publish(subject, body, { headers: header });
};
let published = 0;
for (const [id = '', letter = ''] of cases) {
  await publish(
    `${PREFIX}.task.acme.refund-desk`,
    JSON.stringify({ input: { case: id, letter } }),
    id,
  );
  published += 1;
  await new Promise((resolve) => setTimeout(resolve, 1_000 / Number(PER_SECOND)));
}
// What no desk can work on must not be lost either, and must not stop the others.
await publish(`${PREFIX}.task.acme.refund-desk`, '{"case": "C-9001", ', 'not-json');
await publish(`${PREFIX}.task.acme.complaints`, '{"input": "who is there?"}', 'unknown-agent');
await publish(`${PREFIX}.task.nobody.refund-desk`, '{"input": "who am I?"}', 'unknown-tenant');
await publish(
  `${PREFIX}.task.acme.refund-desk`,
  JSON.stringify({ input: 'x'.repeat(300_000) }),
  'too-large',
);
published += 4;
await connection.close();
process.stdout.write(`${JSON.stringify({ published })}\n`);
