/** The bench's session as a Restate service: a durable step for each model call and for each tool call. Started by `make compare`; PORT, and STUB_PORT of the model. */
import { Agent, request } from 'node:http';
import * as restate from '@restatedev/restate-sdk';

const agent = new Agent({ keepAlive: true, maxSockets: 512 });

const complete = (messages) =>
  new Promise((resolve, reject) => {
    const body = JSON.stringify({ model: 'stub', messages });
    const asked = request(
      {
        agent,
        host: '127.0.0.1',
        port: Number(process.env.STUB_PORT),
        method: 'POST',
        path: '/v1/chat/completions',
        headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
      },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk) => {
          text += chunk;
        });
        response.on('end', () => {
          try {
            resolve(JSON.parse(text).choices[0].message);
          } catch (error) {
            reject(error);
          }
        });
      },
    );
    asked.on('error', reject);
    asked.end(body);
  });

const bench = restate.service({
  name: 'bench',
  handlers: {
    session: async (context, { input }) => {
      const messages = [
        { role: 'system', content: 'Call the tool.' },
        { role: 'user', content: input },
      ];
      for (;;) {
        const answer = await context.run('model', () => complete(messages));
        messages.push(answer);
        if (!answer.tool_calls) return answer.content;
        for (const { id, function: called } of answer.tool_calls) {
          const result = await context.run('tool', () => JSON.parse(called.arguments));
          messages.push({ role: 'tool', tool_call_id: id, content: JSON.stringify(result) });
        }
      }
    },
  },
});

restate.serve({ services: [bench], port: Number(process.env.PORT) });
