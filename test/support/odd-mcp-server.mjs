/** A stdio MCP server by hand that is odd in a way of its own: its first argument says how. */
import { appendFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const [how = 'plain', log] = process.argv.slice(2);
if (log) appendFileSync(log, `start ${process.env.GREETING ?? ''} ${process.cwd()}\n`);
if (how === 'refuses') {
  process.stderr.write(`warming up\nError: the token ${process.env.TOKEN} is not valid\n`);
  process.exit(1);
}
const say = (message) =>
  process.stdout.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);
const text = (words) => ({ content: [{ type: 'text', text: words }] });
createInterface({ input: process.stdin }).on('line', (line) => {
  const { id, method, params } = JSON.parse(line);
  if (how === 'mute' || id === undefined) return;
  if (method === 'initialize') {
    const { protocolVersion } = params;
    const serverInfo = { name: 'odd', version: '1' };
    return say({ id, result: { protocolVersion, capabilities: { tools: {} }, serverInfo } });
  }
  // Servers of older packages say nothing to what they do not know.
  if (method !== 'tools/call') return;
  const { name, arguments: args } = params;
  if (name === 'slow') return setTimeout(() => say({ id, result: text('slow is done') }), args.ms);
  if (name === 'big') return say({ id, result: text('x'.repeat(args.bytes)) });
  if (name === 'late-id') {
    const body = JSON.stringify({ result: text('x'.repeat(args.bytes)) });
    return process.stdout.write(`${body.slice(0, -1)},"id":${id},"jsonrpc":"2.0"}\n`);
  }
  if (name === 'both') {
    const structuredContent = { cents: 1_200 };
    return say({ id, result: { ...text('twelve euros, and thank you'), structuredContent } });
  }
  if (name === 'same') {
    const structuredContent = { cents: 1_200 };
    return say({ id, result: { ...text(JSON.stringify(structuredContent)), structuredContent } });
  }
  if (name === 'picture') {
    const data = Buffer.alloc(30).toString('base64');
    const content = [
      { type: 'image', mimeType: 'image/png', data },
      { type: 'audio', mimeType: 'audio/wav', data },
      { type: 'resource_link', uri: 'file:///a', name: 'a' },
    ];
    return say({ id, result: { content } });
  }
  if (name === 'file') {
    const structuredContent = { name: 'a', data: Buffer.alloc(6_000, 7).toString('base64') };
    return say({ id, result: { content: [], structuredContent } });
  }
  say({ id, result: text('done') });
});
