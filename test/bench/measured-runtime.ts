/** The runtime with one more door: how large its heap is after a collection. Start it with --expose-gc. */
import { createServer } from 'node:http';

createServer((_request, response) => {
  (globalThis as { gc?: () => void }).gc?.();
  response.end(JSON.stringify({ heapUsed: process.memoryUsage().heapUsed }));
}).listen(Number(process.env.HEAP_PORT), '127.0.0.1');
await import('../../services/runtime/main.ts');
