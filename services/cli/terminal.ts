/** How `understudy` speaks: to people or to programs, about errors, and to the broker. */
import { join } from 'node:path';
import type { Command } from 'commander';
import { Refused } from '../core/errors.ts';
import { printable } from '../core/format.ts';
import { alive, localFolder, readStackFile, type StackFile } from '../local/stack-file.ts';
import type { Control } from '../ports/control.ts';
import type { Events } from '../ports/events.ts';
import type { Tasks } from '../ports/tasks.ts';
import { type Failure, hint, quoted } from './failure.ts';

const root = join(import.meta.dirname, '../..');

/** What commands do their work with. */
export interface CliPorts {
  readonly control: Pick<Control, 'ask'>;
  readonly events: Events;
  readonly tasks: Tasks;
  close(): Promise<void>;
}

/** Options of every command. */
export interface Global {
  readonly server?: string;
  readonly prefix?: string;
  readonly output: 'text' | 'json';
  readonly timeout: number;
  readonly explain?: boolean;
}

export type Terminal = ReturnType<typeof terminalOf>;

/** The local stack, unless it was stopped. */
function runningStack(): StackFile | undefined {
  const stack = readStackFile(localFolder(root));
  return stack && alive(stack).length > 0 ? stack : undefined;
}

/** @param open  connects to a broker */
export function terminalOf(
  program: Command,
  open: (url: string, options: Global) => Promise<CliPorts>,
) {
  const options = (): Global => program.opts<Global>();
  const serverUrl = (): string =>
    options().server ??
    process.env.UNDERSTUDY_NATS_URL ??
    runningStack()?.natsUrl ??
    'nats://127.0.0.1:4222';
  /** As it is, but for what steers a terminal: what an agent or a publisher says is not ours to word. */
  const tell = (text: string): void => void process.stdout.write(`${printable(text)}\n`);
  /** Our own words. */
  const say = (text: string): void => tell(hint(text));
  /** For who reads along, not for who reads the answer. */
  const note = (text: string): void => void process.stderr.write(`${printable(hint(text))}\n`);
  const print = (value: unknown, text: () => string): void => {
    if (options().output === 'json') process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
    else tell(text());
  };
  const fail = ({ code, message, next, exitCode }: Failure, more: object = {}): void => {
    if (options().output === 'json')
      process.stderr.write(
        `${JSON.stringify({ error: { code, message, ...more, ...(next ? { next: hint(next) } : {}) } })}\n`,
      );
    else note(`error ${code}: ${message}${next ? `\n  next: ${next}` : ''}`);
    process.exitCode = exitCode;
  };

  const withPorts = async <Value>(work: (ports: CliPorts) => Promise<Value>): Promise<Value> => {
    const url = serverUrl();
    for (const one of url.split(',')) {
      if (!/^((nats|tls|ws|wss):\/\/)?[^\s/]+$/.test(one.trim()))
        throw new Refused(
          'SERVER_INVALID',
          `"${one}" is no address of a NATS server: nats://host:4222, comma-separated for several`,
        );
    }
    const ports = await open(url, options());
    try {
      return await work(ports);
    } finally {
      await ports.close();
    }
  };

  /** Ask the control API; a refusal becomes an error with its code. @param leastMs  how long it may take, whatever is usual */
  const ask = async <Value>(
    verb: string,
    body: object,
    leastMs = 0,
  ): Promise<Value | undefined> => {
    const { prefix, explain, timeout } = options();
    if (explain) {
      say(
        `nats --server ${serverUrl()} req ${prefix}.control.${verb} ${quoted(JSON.stringify(body))}`,
      );
      return undefined;
    }
    return withPorts(async ({ control }) => {
      const answer = await control.ask(verb, body, Math.max(timeout, leastMs));
      if (!answer.ok) throw new Refused(answer.code, answer.message);
      return answer.value as Value;
    });
  };
  return { options, serverUrl, tell, say, note, print, fail, withPorts, ask };
}
