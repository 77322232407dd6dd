/** What a shard cannot apply or read: it is stored as a dead letter before its position moves past it, or its outbox entry is settled. */
import { messageOf } from '../core/errors.ts';
import { type ShardId, shardOf } from '../core/ids.ts';
import type { Message } from '../core/session/messages.ts';
import type { Envelope } from '../core/wire/envelopes.ts';
import type { Clock } from '../ports/clock.ts';
import type { Events } from '../ports/events.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { Telemetry } from '../ports/telemetry.ts';

export interface Letter {
  readonly tenant?: string;
  readonly agent?: string;
  readonly session?: string;
  readonly task?: string | undefined;
  readonly subject?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: string;
  /** What it is about: it is stored once, however often it comes. */
  readonly identity: string;
  /** The body is the beginning only. */
  readonly isCut?: boolean;
}

export interface DeadLetterPorts {
  readonly events: Pick<Events, 'putDeadLetter'>;
  readonly mailbox: Pick<Mailbox, 'deliver'>;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
  readonly shards: number;
}

const retryMs = 500;

export class DeadLetters {
  readonly #shard: ShardId;
  readonly #ports: DeadLetterPorts;
  readonly #isOpen: () => boolean;

  constructor(shard: ShardId, ports: DeadLetterPorts, isOpen: () => boolean) {
    this.#shard = shard;
    this.#ports = ports;
    this.#isOpen = isOpen;
  }

  /** @param done  called once the letter is stored */
  put(code: string, reason: string, letter: Letter, done: () => void): void {
    const { tenant = 'unknown', agent = 'unknown', ...rest } = letter;
    this.#ports.telemetry.deadLettered(code, { shard: this.#shard, session: rest.session });
    this.#persist(
      () =>
        this.#ports.events.putDeadLetter({
          tenant,
          agent,
          code,
          reason: reason.slice(0, 500),
          subject: '',
          headers: {},
          ...rest,
        }),
      done,
    );
  }

  /** A child that cannot begin must not leave its parent waiting. */
  tellParent(message: Message, code: string, reason: string, done: () => void): void {
    if (message.kind !== 'task' || !message.parent) return done();
    const { tenant, session, effect } = message.parent;
    const spent = { steps: 0, toolCalls: 0, tokens: 0, costMicros: 0 };
    const envelope: Envelope = {
      tenant,
      session,
      message: {
        kind: 'agentEnded',
        effect,
        outcome: 'failed',
        output: `${code}: ${reason}`,
        spent,
      },
    };
    this.#persist(
      () => this.#ports.mailbox.deliver(shardOf(tenant, session, this.#ports.shards), envelope),
      done,
    );
  }

  #persist(attempt: () => Promise<void>, done: () => void): void {
    attempt().then(done, (error: unknown) => {
      this.#ports.telemetry.log(
        'warn',
        'a dead letter is not stored yet; what it was stays where it is until then',
        { shard: this.#shard, cause: messageOf(error) },
      );
      if (this.#isOpen())
        void this.#ports.clock.sleep(retryMs).then(() => this.#persist(attempt, done));
    });
  }
}
