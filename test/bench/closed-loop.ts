/** Load in a closed loop: as many sessions in flight as `wanted` says; when one ends, the next begins. */
import { setTimeout as sleep } from 'node:timers/promises';
import { connectNats, type Nats } from '../../services/adapters/nats/connection.ts';
import { OrderedReader } from '../../services/adapters/nats/ordered-reader.ts';
import { natsTasks } from '../../services/adapters/nats/tasks.ts';
import { parseEvents } from '../../services/core/wire/cloud-event.ts';

const restMs = 60_000;

export class ClosedLoop {
  begun = 0;
  ended = 0;
  #wanted = 0;
  readonly #begin: (session: number) => Promise<void>;

  /** @param begin  begins a session of this number; what it throws ends the bench: one that counts refusals as work would be worth nothing */
  constructor(begin: (session: number) => Promise<void>) {
    this.#begin = begin;
  }

  get wanted(): number {
    return this.#wanted;
  }

  set wanted(sessions: number) {
    this.#wanted = sessions;
    this.#fill();
  }

  /** One has completed. */
  end(): void {
    this.ended += 1;
    this.#fill();
  }

  /** Begin no more, and wait for what is under way. @throws Error when it takes longer than a minute */
  async rest(): Promise<void> {
    this.#wanted = 0;
    for (const until = Date.now() + restMs; this.ended < this.begun; await sleep(20))
      if (Date.now() > until)
        throw new Error(
          `${this.begun - this.ended} sessions have not ended within ${restMs / 1_000} s`,
        );
  }

  #fill(): void {
    while (this.begun - this.ended < this.#wanted) {
      this.begun += 1;
      this.#begin(this.begun).catch(abandon);
    }
  }
}

function abandon(error: unknown): void {
  process.stderr.write(
    `${error instanceof Error ? error.message : String(error)}: what was measured is worth nothing\n`,
  );
  process.exit(1);
}

/** Tasks of Understudy, published as an ordinary client does. */
export async function understudyLoad(url: string): Promise<{ load: ClosedLoop; nats: Nats }> {
  const nats = await connectNats({ url, name: 'bench' });
  const tasks = natsTasks(nats);
  const load = new ClosedLoop((session) =>
    tasks.publish('bench', 'bench', `{"input":"session-${session}"}`, {
      'Understudy-Task': `b-${session}`,
    }),
  );
  await new OrderedReader(
    nats,
    {
      stream: nats.streams.events,
      filter: nats.subjects.ends('bench', 'bench', '*'),
      afterSequence: 0,
    },
    (message) => {
      for (const { data } of parseEvents(message.text())) {
        if (data.to === 'completed') load.end();
        else abandon(new Error(`a session ${data.to} (${data.session})`));
      }
    },
  ).start();
  return { load, nats };
}
