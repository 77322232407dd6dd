/**
 * The openai package with a short way from a call to the wire.
 *
 * What is asked, how an answer and its errors are typed, and how a stream is read stay the package's. Left out is what it does around
 * each request for retries, time-outs and log lines, which are all ours or off here, and which cost more than the request (ADR 4).
 */
import OpenAI, { APIConnectionError, APIUserAbortError } from 'openai';
import { APIPromise } from 'openai/core/api-promise';
import { Stream } from 'openai/streaming';
import { type Answered, post } from './wire.ts';

type Options = {
  readonly body?: unknown;
  readonly stream?: boolean | undefined;
  readonly signal?: AbortSignal | null | undefined;
  readonly headers?: unknown;
  readonly onData?: () => void;
};
type Props =
  ConstructorParameters<typeof APIPromise>[1] extends Promise<infer Given> ? Given : never;

export class DirectClient extends OpenAI {
  /** The same for every call: who we are, and our key. */
  #headers: Promise<Record<string, string>> | undefined;
  readonly #urls = new Map<string, URL>();

  readonly #hasKey: boolean;

  /** @param apiKey  undefined for a server that wants none */
  constructor(baseURL: string, apiKey: string | undefined) {
    super({ baseURL, apiKey: apiKey ?? 'none', maxRetries: 0, logLevel: 'off' });
    this.#hasKey = apiKey !== undefined;
  }

  override post<Value>(path: string, options?: unknown): APIPromise<Value> {
    let value: unknown;
    const sent = Promise.resolve(options as Options).then(async (given) => {
      const answer = await this.#send(path, given);
      value = answer.value;
      return { response: answer.response, options: given } as unknown as Props;
    });
    return new APIPromise<Value>(this, sent, () => value as never);
  }

  async #send(
    path: string,
    { body, stream, signal, headers, onData }: Options,
  ): Promise<{ value: unknown; response: Response }> {
    this.#headers ??= this.#commonHeaders(path);
    const controller = new AbortController();
    let answer: Answered;
    try {
      answer = await post(
        this.#urlOf(path),
        { ...(await this.#headers), ...(headers as Record<string, string>) },
        JSON.stringify(body),
        stream === true,
        signal ?? controller.signal,
        onData,
      );
    } catch (error) {
      if (signal?.aborted) throw new APIUserAbortError();
      throw new APIConnectionError({ cause: error as Error });
    }
    const response = new Answer(answer) as unknown as Response;
    if (answer.status < 200 || answer.status > 299) throw await this.#errorOf(answer);
    if (stream && !isJson(answer))
      return { value: Stream.fromSSEResponse(response, controller, this), response };
    // A proxy that does not stream answers at once: a stream of one piece.
    if (stream) return { value: onePiece(parsed(await textOf(answer))), response };
    return { value: parsed(await textOf(answer)), response };
  }

  async #errorOf(answer: Answered): Promise<Error> {
    const text = await textOf(answer);
    const body = parsed(text);
    const isObject = typeof body === 'object' && body !== null;
    const headers = new Headers();
    for (const [name, value] of Object.entries(answer.headers)) headers.set(name, String(value));
    return this.makeStatusError(
      answer.status,
      isObject ? body : {},
      isObject ? undefined : text.slice(0, 500),
      headers,
    );
  }

  #urlOf(path: string): URL {
    let url = this.#urls.get(path);
    if (!url) {
      url = new URL(this.buildURL(path, null));
      this.#urls.set(path, url);
    }
    return url;
  }

  /** Without what the package tells of the machine that it runs on: nobody's business, and half of the head of a request. */
  async #commonHeaders(path: string): Promise<Record<string, string>> {
    const { req } = await this.buildRequest({ method: 'post', path, body: {} });
    const headers = new Headers(req.headers);
    headers.set('user-agent', 'understudy');
    if (!this.#hasKey) headers.delete('authorization');
    return Object.fromEntries([...headers].filter(([name]) => !name.startsWith('x-stainless-')));
  }
}

const isJson = ({ headers }: Answered): boolean =>
  /^application\/json\b/i.test(String(headers['content-type'] ?? ''));

async function* onePiece(value: unknown): AsyncGenerator<unknown> {
  yield value;
}

/** As JSON, or as it is: a proxy's page, say. Who asked judges it. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

async function textOf({ body }: Answered): Promise<string> {
  if (typeof body === 'string') return body;
  const chunks: Buffer[] = [];
  for await (const chunk of body) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}

/** The part of a Response that the package looks at. */
class Answer {
  readonly #answer: Answered;
  constructor(answer: Answered) {
    this.#answer = answer;
  }
  readonly ok = true;
  get status(): number {
    return this.#answer.status;
  }
  get headers() {
    return {
      get: (name: string): string | null =>
        (this.#answer.headers[name.toLowerCase()] as string | undefined) ?? null,
    };
  }
  get body() {
    return this.#answer.body;
  }
}
