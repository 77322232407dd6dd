/** One NATS connection with what every part of this folder needs of it. */
import {
  type ConnectionOptions,
  connect,
  createInbox,
  type JetStreamManager,
  type NatsConnection,
} from 'nats';
import { Unavailable } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import { type Streams, type Subjects, streamsOf, subjectsOf } from '../../core/wire/subjects.ts';
import { LeanPublisher } from './publisher.ts';
import { Requests } from './requests.ts';
import { dropStaleReads, type Protocol } from './stale-reads.ts';

export interface Nats {
  readonly connection: NatsConnection;
  readonly manager: JetStreamManager;
  readonly publisher: LeanPublisher;
  readonly requests: Pick<Requests, 'ask'>;
  readonly subjects: Subjects;
  readonly streams: Streams;
  /** Copies of each stream that is made. */
  readonly replicas: number;
  /** A subject of our own to hear answers on. Each user has a prefix of its own, so that none can listen to another's. */
  inbox(): string;
  /** Called after every reconnect: what lived in the server's memory may be gone. */
  onReconnect(listener: () => void): void;
  /** Called when the connection is lost, before it is tried again. */
  onDisconnect(listener: () => void): void;
  close(): Promise<void>;
}

export interface NatsSettings {
  readonly url: string;
  readonly name: string;
  readonly prefix?: string | undefined;
  readonly user?: string | undefined;
  readonly password?: string | undefined;
  readonly replicas?: number | undefined;
  /** How long to look for a server, ms. */
  readonly withinMs?: number | undefined;
}

/** Bytes of a message that many gather in: half of what the broker carries, at the most. */
export const batchBytesOf = ({ connection }: Pick<Nats, 'connection'>): number =>
  Math.min(limits.batchBytesMax, (connection.info?.max_payload ?? Number.POSITIVE_INFINITY) / 2);

/** Without a user the field's common prefix, else one that the user's permissions name. */
export const inboxPrefixOf = (user: string | undefined): string =>
  user ? `_INBOX_${user}` : '_INBOX';

/** @throws Unavailable when no server answers within `withinMs` */
export async function connectNats({
  url,
  name,
  prefix,
  user,
  password,
  replicas = 1,
  withinMs = 10_000,
}: NatsSettings): Promise<Nats> {
  const inboxPrefix = inboxPrefixOf(user);
  const servers = url.split(',');
  const options: ConnectionOptions = {
    servers,
    // Whoever writes tls:// wants no password to leave in the clear, whatever the server says of itself. Authorities of one's own: NODE_EXTRA_CA_CERTS.
    ...(servers.some((server) => server.trim().startsWith('tls://')) ? { tls: {} } : {}),
    name,
    maxReconnectAttempts: -1,
    ignoreAuthErrorAbort: true, // a password that is being changed is asked about again, like a server that is away
    reconnectTimeWait: 100,
    reconnectJitter: 100,
    waitOnFirstConnect: true,
    pingInterval: 5_000,
    maxPingOut: 2,
    inboxPrefix,
    ...(user ? { user, pass: password ?? '' } : {}),
  };
  const deadline = Date.now() + withinMs;
  let connection: NatsConnection | undefined;
  while (!connection) {
    try {
      connection = await connect({
        ...options,
        waitOnFirstConnect: false,
        timeout: Math.min(2_000, withinMs),
      });
    } catch (error) {
      if (Date.now() > deadline)
        throw new Unavailable(
          'NATS_UNAVAILABLE',
          `no NATS server answers at ${url.replace(/\/\/[^@,]*@/g, '//')}`,
          { cause: error },
        );
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
  }
  const open = connection;
  dropStaleReads((open as unknown as { protocol: Protocol }).protocol);
  const listeners: (() => void)[] = [];
  const lost: (() => void)[] = [];
  void (async () => {
    for await (const status of open.status()) {
      if (status.type === 'disconnect') for (const listener of lost) listener();
      if (status.type === 'reconnect') for (const listener of listeners) listener();
    }
  })();
  const manager = await open.jetstreamManager({ checkAPI: false, timeout: 5_000 });
  const inbox = () => createInbox(inboxPrefix);
  const publisher = new LeanPublisher(open, inbox());
  const requests = new Requests(open, inbox());
  listeners.push(() => publisher.resendAll());
  return {
    connection: open,
    manager,
    publisher,
    requests,
    subjects: subjectsOf(prefix),
    streams: streamsOf(prefix),
    replicas,
    inbox,
    onReconnect: (listener) => listeners.push(listener),
    onDisconnect: (listener) => lost.push(listener),
    async close() {
      publisher.close();
      requests.close();
      await open.close();
    },
  };
}

const noMessageFound = 10_037;

/** One message: the last of a subject, that of a sequence, or the next of a subject from a sequence on. @throws Unavailable on any error but "there is none": an error must never look like an absence */
export async function lastMessage(
  nats: Pick<Nats, 'requests'>,
  stream: string,
  query: { last_by_subj: string } | { seq: number; next_by_subj?: string },
): Promise<{ seq: number; subject: string; text: string; bytes: Buffer; at: number } | undefined> {
  const answer = await ask<{
    message?: { seq: number; subject: string; data?: string; time: string };
  }>(nats, `$JS.API.STREAM.MSG.GET.${stream}`, query);
  if (answer.error) {
    if (
      answer.error.err_code === noMessageFound ||
      (answer.error.code === 404 && answer.error.err_code !== 10_059)
    )
      return undefined;
    throw new Unavailable('NATS_UNAVAILABLE', `stream ${stream}: ${answer.error.description}`, {
      error: answer.error,
    });
  }
  if (!answer.message) throw new Unavailable('NATS_UNAVAILABLE', `stream ${stream} gave no answer`);
  const { seq, subject, data = '', time } = answer.message;
  const bytes = Buffer.from(data, 'base64');
  return { seq, subject, text: bytes.toString('utf8'), bytes, at: Date.parse(time) };
}

/** Ask the JetStream API, in JSON. @throws Unavailable on no answer; an `error` in the answer is returned. */
export async function ask<Answer>(
  nats: Pick<Nats, 'requests'>,
  subject: string,
  body: unknown,
  timeoutMs = 5_000,
): Promise<Answer & { error?: { code: number; err_code?: number; description: string } }> {
  try {
    const answer = await nats.requests.ask(
      subject,
      body === undefined ? '' : JSON.stringify(body),
      timeoutMs,
    );
    return JSON.parse(answer) as Answer & {
      error?: { code: number; err_code?: number; description: string };
    };
  } catch (error) {
    throw new Unavailable(
      'NATS_UNAVAILABLE',
      `NATS did not answer (${subject.split('.').slice(0, 5).join('.')})`,
      { cause: error },
    );
  }
}
