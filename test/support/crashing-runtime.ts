/** The runtime as a process that kills itself with -9 at a chosen beat: real code, real stores, an exact crash window. */
import { esbuildMachines } from '../../services/adapters/esbuild/machines.ts';
import { settingsFrom } from '../../services/adapters/files/environment.ts';
import { foldersTexts, specsOf } from '../../services/adapters/files/spec-files.ts';
import { natsArchive } from '../../services/adapters/nats/archive.ts';
import { connectNats } from '../../services/adapters/nats/connection.ts';
import { natsControl } from '../../services/adapters/nats/control.ts';
import { natsEffects } from '../../services/adapters/nats/effects.ts';
import { natsEvents } from '../../services/adapters/nats/events.ts';
import { natsMailbox } from '../../services/adapters/nats/mailbox.ts';
import { natsStarts } from '../../services/adapters/nats/starts.ts';
import { declareStreams } from '../../services/adapters/nats/streams.ts';
import { natsTasks } from '../../services/adapters/nats/tasks.ts';
import { natsToolChecks } from '../../services/adapters/nats/tool-checks.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { serveProbes } from '../../services/adapters/observability/probes.ts';
import { observability } from '../../services/adapters/observability/telemetry.ts';
import { redisLeases } from '../../services/adapters/redis/leases.ts';
import { connectedRedis } from '../../services/adapters/redis/scripts.ts';
import { redisSessionStore } from '../../services/adapters/redis/session-store.ts';
import type { Mailbox } from '../../services/ports/mailbox.ts';
import type { SessionStore } from '../../services/ports/session-store.ts';
import { type Runtime, startRuntime } from '../../services/runtime/service.ts';

const { CRASH_BEAT = '', CRASH_NTH = '1' } = process.env;
let times = 0;
const crashAt = (beat: string): void => {
  if (beat !== CRASH_BEAT) return;
  times += 1;
  if (times === Number(CRASH_NTH)) process.kill(process.pid, 'SIGKILL');
};
/** A promise that never settles: the process is as good as dead. */
const never = new Promise<never>(() => undefined);

const settings = settingsFrom(process.env);
const { telemetry, registry } = observability('runtime', settings.instance, settings.logLevel);
let runtime: Runtime | undefined;
await serveProbes(settings.httpPort, registry, () => runtime?.whyNotReady() ?? 'starting');
const redis = await connectedRedis(settings.redisUrl);
const nats = await connectNats({ ...settings.nats, name: settings.instance });
await declareStreams(nats);

const mailbox = natsMailbox(nats);
const receiving: Mailbox = {
  ...mailbox,
  read: (shard, after, onBatch) =>
    mailbox.read(shard, after, (batch) => {
      crashAt('receive');
      onBatch(batch);
    }),
};
const store = redisSessionStore(redis);
const committing: SessionStore = {
  ...store,
  async commit(shard, token, commit) {
    if (commit.sessions.length > 0) crashAt('before-commit');
    const result = await store.commit(shard, token, commit);
    // Committed, and not yet released.
    if (commit.sessions.length > 0) crashAt('after-commit');
    return result;
  },
};
const effects = natsEffects(nats);
const events = natsEvents(nats);
const machines = esbuildMachines();
runtime = await startRuntime(
  settings,
  {
    mailbox: receiving,
    store: committing,
    archive: natsArchive(nats),
    starts: natsStarts(nats),
    effects: {
      ...effects,
      async offer(effect) {
        await effects.offer(effect);
        // Released, and not yet settled.
        crashAt('after-release');
        if (CRASH_BEAT === 'after-release' && times >= Number(CRASH_NTH)) return never;
      },
    },
    events,
    machines,
    leases: redisLeases(redis),
    tasks: natsTasks(nats),
    checks: natsToolChecks(nats),
    listings: undefined as never, // no document names a server
    control: natsControl(nats),
    telemetry,
    clock: systemClock,
  },
  specsOf(foldersTexts(settings.specs), settings.specs, machines),
);
