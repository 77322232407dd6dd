/**
 * One POST with a JSON body and its answer, over undici's dispatcher with kept-alive sockets.
 *
 * A model call is small and there are thousands a second; Node's own `fetch` costs about half of a gateway's CPU (web streams, header
 * lists, composite signals), `node:http` about twice what the dispatcher does (ADR 4).
 */
import { Readable } from 'node:stream';
import { Agent, type Dispatcher, EnvHttpProxyAgent } from 'undici';

export interface Answered {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** The whole body, or its bytes as they come. */
  readonly body: string | Readable;
}

/** A model's answer is text: what is larger than this is no answer. */
const answerBytesMax = 64 * 1_048_576;

// Sockets are the memory of a gateway: bound them. How long a call may take is for its caller to say.
const options = {
  connections: 4_096,
  pipelining: 1,
  headersTimeout: 0,
  bodyTimeout: 0,
  allowH2: false,
  keepAliveTimeout: 60_000,
};
const hasProxy = ['HTTP_PROXY', 'http_proxy', 'HTTPS_PROXY', 'https_proxy'].some(
  (name) => process.env[name],
);
const dispatcher: Dispatcher = hasProxy ? new EnvHttpProxyAgent(options) : new Agent(options);

/**
 * @param isStream  give the bytes as they come, if the answer is a good one
 * @param onData  told of each piece of the answer
 * @throws what the socket throws, or the reason of the signal
 */
export function post(
  url: URL,
  headers: Readonly<Record<string, string>>,
  body: string,
  isStream: boolean,
  signal: AbortSignal,
  onData?: () => void,
): Promise<Answered> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error);
    let control: Dispatcher.DispatchController | undefined;
    const abort = () => {
      if (control) return control.abort(signal.reason as Error);
      // No socket yet: it may be queued, or still shaking hands. Nobody waits for that.
      over();
      reject(signal.reason as Error);
    };
    signal.addEventListener('abort', abort, { once: true });
    let status = 0;
    let answered: Answered['headers'] = {};
    let stream: Readable | undefined;
    let bytes = 0;
    const over = () => signal.removeEventListener('abort', abort);
    const chunks: Buffer[] = [];
    dispatcher.dispatch(
      { origin: url.origin, path: url.pathname + url.search, method: 'POST', headers, body },
      {
        onRequestStart(controller) {
          control = controller;
          if (signal.aborted) abort();
        },
        onResponseStart(controller, statusCode, responseHeaders) {
          status = statusCode;
          answered = responseHeaders;
          if (!isStream || statusCode < 200 || statusCode > 299) return;
          stream = new Readable({
            read: () => controller.resume(),
            destroy: (error, done) => {
              controller.abort(error ?? new Error('nobody reads on'));
              done(error);
            },
          });
          stream.on('error', () => undefined); // whoever reads it hears of it; nobody may
          resolve({ status, headers: answered, body: stream });
        },
        onResponseData(controller, chunk) {
          bytes += chunk.length;
          onData?.();
          if (bytes > answerBytesMax)
            return controller.abort(
              new RangeError(`the answer is larger than ${answerBytesMax} bytes`),
            );
          if (!stream) chunks.push(chunk);
          else if (!stream.push(chunk)) controller.pause();
        },
        onResponseEnd() {
          over();
          if (stream) stream.push(null);
          else
            resolve({
              status,
              headers: answered,
              body:
                chunks.length === 1
                  ? chunks[0]!.toString('utf8')
                  : Buffer.concat(chunks).toString('utf8'),
            });
        },
        onResponseError(_controller, error) {
          over();
          if (stream) stream.destroy(error);
          else reject(error);
        },
      },
    );
  });
}
