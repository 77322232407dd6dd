/**
 * A hostile outside world: a model that follows the script in its task, and a tool server that records every call, its key and
 * whether it took effect. It is the witness of "never twice", for tests in its process and for chaos as a pod.
 */
import { createServer, type IncomingMessage, type Server } from 'node:http';

export interface Call {
  readonly tool: string;
  readonly key: string;
  readonly session: string;
  readonly tenant: string;
  readonly traceparent: string | undefined;
  readonly at: number;
}

/** The task of a scripted session: which tools to call, in order, and how slow everything is. */
export interface Script {
  readonly calls: readonly { readonly tool: string; readonly arguments?: object }[];
  readonly say?: string;
  /** Whose tokens these are in the model's own ledger. */
  readonly ledger?: string;
}

export class OutsideWorld {
  /** Every request that came, and those that took effect. */
  readonly calls: Call[] = [];
  readonly effects: Call[] = [];
  modelCalls = 0;
  /** Milliseconds that a tool takes before and after it takes effect, and a model before it answers. */
  beforeMs = 0;
  afterMs = 0;
  modelMs = 5;
  /** Model calls that hang after their first token until this is called. */
  holdStreams = false;
  readonly heldStreams: (() => void)[] = [];
  readonly #keyed = new Set<string>();
  #server!: Server;
  url = '';

  /** Prompts that held another tenant's mark: what belongs to one must not be told to a model for another. */
  readonly leaks: string[] = [];
  /** Part of the calls that are answered 503 before, and part that are cut off after they took effect: the caller never hears of it. */
  refusalRate = 0;
  hangUpRate = 0;
  /** Part of the model calls that are counted and bring no whole answer. */
  modelBreakRate = 0;
  /** Tokens that the model has counted, by the ledger that the script names; a broken answer counts too. */
  readonly ledger = new Map<string, number>();
  /** Told of every call and effect as it is recorded. */
  onRecord: (kind: 'call' | 'effect', call: Call) => void = () => undefined;

  /** @param port  0 takes a free one */
  async start(
    port = 0,
    host = '127.0.0.1',
    handle?: (path: string, text: string, response: import('node:http').ServerResponse) => boolean,
  ): Promise<void> {
    this.#server = createServer((request, response) => {
      void (async () => {
        const text = await bodyOf(request);
        const { pathname } = new URL(request.url ?? '/', 'http://x');
        if (handle?.(pathname, text, response)) return;
        if (pathname.endsWith('/chat/completions')) return this.#model(text, response);
        const [, verb, tool = ''] = pathname.split('/');
        if (verb === 'did') {
          const key = decodeURIComponent(tool);
          response
            .writeHead(this.effects.some((effect) => effect.key === key) ? 200 : 404, {
              'content-type': 'application/json',
            })
            .end('{"found":true}');
          return;
        }
        const call: Call = {
          tool,
          key: String(request.headers['idempotency-key'] ?? ''),
          session: String(request.headers['x-understudy-session'] ?? ''),
          tenant: String(request.headers['x-understudy-tenant'] ?? ''),
          traceparent: request.headers.traceparent as string | undefined,
          at: Date.now(),
        };
        this.calls.push(call);
        this.onRecord('call', call);
        await sleep(this.beforeMs);
        if (Math.random() < this.refusalRate)
          return void response
            .writeHead(503, { 'content-type': 'application/json' })
            .end('{"error":{"code":"TRY_AGAIN"}}');
        // The keyed service pays attention to the key; the others do not.
        if (tool !== 'keyed' || !this.#keyed.has(call.key)) this.take(call);
        await sleep(this.afterMs);
        if (Math.random() < this.hangUpRate) return void response.destroy();
        response
          .writeHead(200, { 'content-type': 'application/json' })
          .end(JSON.stringify({ done: tool }));
      })().catch(() => response.destroy());
    });
    this.#server.keepAliveTimeout = 60_000;
    await new Promise<void>((resolve) => this.#server.listen(port, host, () => resolve()));
    this.url = `http://127.0.0.1:${(this.#server.address() as { port: number }).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  /** It takes effect. */
  take(call: Call): void {
    this.effects.push(call);
    this.#keyed.add(call.key);
    this.onRecord('effect', call);
  }

  /** Effects per idempotency key: more than one is a double. */
  doubled(): string[] {
    const counts = new Map<string, number>();
    for (const { key } of this.effects) counts.set(key, (counts.get(key) ?? 0) + 1);
    return [...counts].filter(([, count]) => count > 1).map(([key]) => key);
  }

  async #model(text: string, response: import('node:http').ServerResponse): Promise<void> {
    this.modelCalls += 1;
    const number = this.modelCalls;
    const request = JSON.parse(text) as {
      stream?: boolean;
      model: string;
      messages: { role: string; content: string }[];
    };
    // A keyed session is told several scripts: the last is the one that is followed.
    const scripts = request.messages.map(scriptIn);
    const at = scripts.findLastIndex((found) => found);
    const script = scripts[at] ?? { calls: [] };
    const marks = new Set(text.match(/mark-of-[a-z0-9]+/g));
    if (marks.size > 1) this.leaks.push([...marks].join(' '));
    const done = request.messages.slice(at + 1).filter(({ role }) => role === 'tool').length;
    const next = script.calls[done];
    await sleep(this.modelMs);
    const call = next
      ? {
          id: `c${done}`,
          type: 'function',
          function: { name: next.tool, arguments: JSON.stringify(next.arguments ?? { n: done }) },
        }
      : undefined;
    const usage = {
      prompt_tokens: Math.ceil(text.length / 4),
      completion_tokens: 10,
      total_tokens: 0,
    };
    if (script.ledger !== undefined) {
      const before = this.ledger.get(script.ledger) ?? 0;
      this.ledger.set(script.ledger, before + usage.prompt_tokens + usage.completion_tokens);
    }
    if (Math.random() < this.modelBreakRate) return this.#break(response);
    const base = { id: `m${number}`, created: 1, model: request.model };
    const say = script.say ?? `done ${script.calls.length}`;
    if (!request.stream) {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(
        JSON.stringify({
          ...base,
          object: 'chat.completion',
          usage,
          choices: [
            {
              index: 0,
              finish_reason: call ? 'tool_calls' : 'stop',
              message: {
                role: 'assistant',
                content: call ? null : say,
                ...(call ? { tool_calls: [call] } : {}),
              },
            },
          ],
        }),
      );
      return;
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const send = (delta: object, finish: string | null = null) =>
      response.write(
        `data: ${JSON.stringify({ ...base, object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`,
      );
    send({ role: 'assistant', content: call ? '' : say.slice(0, 2) });
    if (this.holdStreams) await new Promise<void>((resolve) => this.heldStreams.push(resolve));
    send(call ? { tool_calls: [{ index: 0, ...call }] } : { content: say.slice(2) });
    send({}, call ? 'tool_calls' : 'stop');
    response.write(
      `data: ${JSON.stringify({ ...base, object: 'chat.completion.chunk', choices: [], usage })}\n\n`,
    );
    response.end('data: [DONE]\n\n');
  }

  #break(response: import('node:http').ServerResponse): void {
    if (Math.random() < 0.5) return void response.writeHead(500).end('{"error":{}}');
    response.writeHead(200, { 'content-type': 'application/json' }).write('{"id":');
    setTimeout(() => response.destroy(), 5);
  }

  /** Let go of everything that hangs, and hang no more. */
  releaseStreams(): void {
    this.holdStreams = false;
    for (const release of this.heldStreams.splice(0)) release();
  }
}

/** What a person says is a script; what the product adds is not. */
function scriptIn({ role, content }: { role: string; content: string }): Script | undefined {
  if (role !== 'user') return undefined;
  try {
    const found = JSON.parse(content) as Partial<Script>;
    return Array.isArray(found.calls) ? (found as Script) : undefined;
  } catch {
    return undefined;
  }
}

const sleep = (ms: number) =>
  ms > 0 ? new Promise<void>((resolve) => setTimeout(resolve, ms)) : undefined;
async function bodyOf(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text;
}
