/** An MCP server over stdio, with the official package. */
import { McpServer } from '@modelcontextprotocol/server';
import { StdioServerTransport } from '@modelcontextprotocol/server/stdio';
import { z } from 'zod';

const server = new McpServer({ name: 'test', version: '1' });
server.registerTool(
  'add',
  {
    description: 'adds',
    inputSchema: z.object({ a: z.number(), b: z.number() }),
    outputSchema: z.object({ sum: z.number() }),
  },
  async ({ a, b }) => ({
    content: [],
    structuredContent: { sum: a + b },
  }),
);
server.registerTool('fail', { description: 'fails' }, async () => ({
  isError: true,
  content: [{ type: 'text', text: 'no' }],
}));
let visits = 0;
server.registerTool(
  'visit',
  { description: 'counts', outputSchema: z.object({ visits: z.number() }) },
  async () => ({ content: [], structuredContent: { visits: ++visits } }),
);
server.registerTool('hang', { description: 'never answers' }, () => new Promise(() => {}));
server.registerTool('wedge', { description: 'never answers, and nothing after it does' }, () => {
  for (;;);
});
await server.connect(new StdioServerTransport());
