/**
 * What the openai package needs of `fetch`, over node:http with kept-alive sockets.
 *
 * Node's own fetch costs about half of a gateway's CPU (web streams, header lists, composite signals); a model
 * call here is one request with a text body and one answer that is read as text or as a stream of bytes.
 */
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';

// Sockets are the memory of a gateway: bound them, and keep the ones that are warm.
const options = { keepAlive: true, maxSockets: 1_024, maxFreeSockets: 256, scheduling: 'lifo' as const };
const agents = { 'http:': new HttpAgent(options), 'https:': new HttpsAgent(options) };
const targets = new Map<string, URL>();

export const leanFetch: typeof fetch = (input, init = {}) => {
  const address = String(input);
  let target = targets.get(address);
  if (!target) {
    target = new URL(address);
    if (targets.size < 256) targets.set(address, target);
  }
  const isSecure = target.protocol === 'https:';
  const { signal } = init;
  return new Promise<Response>((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason as Error);
    const body = typeof init.body === 'string' ? init.body : undefined;
    const headers: Record<string, string> = {};
    for (const [name, value] of init.headers as Iterable<[string, string]>) headers[name] = value;
    if (body !== undefined) headers['content-length'] = String(Buffer.byteLength(body));
    const request = (isSecure ? httpsRequest : httpRequest)(
      {
        protocol: target.protocol,
        hostname: target.hostname,
        port: target.port || (isSecure ? 443 : 80),
        path: target.pathname + target.search,
        method: init.method ?? 'GET',
        headers,
        agent: isSecure ? agents['https:'] : agents['http:'],
      },
      (answer) => resolve(responseOf(answer, address)),
    );
    const abort = () => request.destroy(new DOMException('The operation was aborted.', 'AbortError'));
    signal?.addEventListener('abort', abort, { once: true });
    request.on('error', reject);
    request.on('close', () => signal?.removeEventListener('abort', abort));
    request.end(body);
  });
};

/** The part of a Response that the openai package looks at. */
function responseOf(answer: IncomingMessage, address: string): Response {
  const status = answer.statusCode ?? 0;
  const text = async (): Promise<string> => {
    const chunks: Buffer[] = [];
    for await (const chunk of answer) chunks.push(chunk as Buffer);
    return Buffer.concat(chunks).toString('utf8');
  };
  const isOk = status >= 200 && status < 300;
  const get = (name: string): string | null => {
    const value = answer.headers[name.toLowerCase()];
    return value === undefined ? null : Array.isArray(value) ? value.join(', ') : value;
  };
  const entries = () => Object.entries(answer.headers).map(([name, value]) => [name, String(value)] as [string, string]);
  const headers = isOk
    ? ({ get, has: (name: string) => get(name) !== null, entries, [Symbol.iterator]: () => entries()[Symbol.iterator]() } as unknown as Headers)
    : new Headers(entries());
  const response = {
    ok: isOk,
    status,
    statusText: answer.statusMessage ?? '',
    url: address,
    headers,
    body: isOk ? answer : null,
    text,
    json: async () => JSON.parse(await text()) as unknown,
    bodyUsed: false,
    redirected: false,
    type: 'default',
  };
  return response as unknown as Response;
}
