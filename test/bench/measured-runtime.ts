/** The runtime with one more door: how large its heap, and what it holds beside it, is after a collection. Start it with --expose-gc. */
import { createServer } from 'node:http';

createServer((_request, response) => {
  (globalThis as { gc?: () => void }).gc?.();
  const { heapUsed, external } = process.memoryUsage();
  response.end(JSON.stringify({ used: heapUsed + external }));
}).listen(Number(process.env.HEAP_PORT), '127.0.0.1');
await import('../../services/runtime/main.ts');
