/**
 * `understudy`: what operators type. Speaks NATS only.
 *
 * Exit codes: 0 done, 1 it was refused or the answer is no, 2 wrong usage, 3 nobody answered, 4 the task did not complete, 70 a mistake of ours.
 */

import { randomUUID } from 'node:crypto';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { esbuildMachines } from '../adapters/esbuild/machines.ts';
import { actorFrom } from '../adapters/files/environment.ts';
import { loadSpecs } from '../adapters/files/spec-files.ts';
import { connectNats } from '../adapters/nats/connection.ts';
import { natsControl } from '../adapters/nats/control.ts';
import { natsEvents } from '../adapters/nats/events.ts';
import { natsTasks } from '../adapters/nats/tasks.ts';
import { Refused } from '../core/errors.ts';
import { isFinal } from '../core/session/status.ts';
import type { ApprovalSummary, SessionSummary } from '../core/session/summary.ts';
import type {
  Discarded,
  Health,
  Letter,
  Requeued,
  SessionCounts,
  Verdict,
  WholeLetter,
} from '../core/wire/control-answers.ts';
import { eventLine } from '../core/wire/event-line.ts';
import { isHealthy } from '../core/wire/health-checks.ts';
import { type ApproveOptions, approve, type Decided, decidedText } from './approve.ts';
import { failureOf, hint, nextOf, quoted } from './failure.ts';
import { addMcpCommands } from './mcp.ts';
import { runTask, taskOf } from './run.ts';
import { type TailOptions, tail } from './tail.ts';
import { eventIn } from './tell.ts';
import { terminalOf } from './terminal.ts';
import { validate, validatedText } from './validate.ts';
import {
  approvalTable,
  approvalText,
  deadTable,
  doctorText,
  inspectText,
  letterText,
  sessionTable,
  verifyText,
} from './views.ts';

const count = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new InvalidArgumentError('A whole number from 1 on is wanted.');
  return value;
};

/** Before anything is parsed, for what is wrong with it. */
const isJson = (): boolean =>
  /(^| )(-o|--output)[ =]?json( |$)/.test(process.argv.slice(2).join(' '));

const program = new Command('understudy')
  .description('Run, watch and steer durable agent sessions.')
  .option(
    '-s, --server <url>',
    'NATS server; default: UNDERSTUDY_NATS_URL, then the stack of make dev, then nats://127.0.0.1:4222',
  )
  .option(
    '--prefix <prefix>',
    'prefix of the installation',
    process.env.UNDERSTUDY_PREFIX ?? 'understudy',
  )
  .addOption(
    new Option('-o, --output <format>', 'how to answer').choices(['text', 'json']).default('text'),
  )
  .version('0.1.0', '-V, --version')
  .exitOverride()
  .configureHelp({ showGlobalOptions: true })
  .option('--timeout <ms>', 'how long to wait for an answer', count, 5_000)
  .option('--explain', 'print the equivalent nats command instead of doing it')
  .addHelpText(
    'after',
    '\nExit codes: 0 done, 1 refused or the answer is no, 2 wrong usage, 3 nobody answered, 4 the task did not complete, 70 a mistake of ours.',
  )
  .showHelpAfterError(isJson() ? false : hint('(understudy --help shows what there is)'))
  .configureOutput({ outputError: (text, write) => (isJson() ? undefined : write(text)) });

const terminal = terminalOf(program, async (url, { timeout, prefix }) => {
  const { UNDERSTUDY_NATS_USER: user, UNDERSTUDY_NATS_PASSWORD: password } = process.env;
  const nats = await connectNats({
    url,
    withinMs: timeout,
    name: 'understudy-cli',
    prefix,
    user,
    password,
  });
  return {
    control: natsControl(nats),
    events: natsEvents(nats),
    tasks: natsTasks(nats),
    close: () => nats.close(),
  };
});
const {
  options: globalOptions,
  serverUrl,
  tell,
  say,
  note,
  print,
  fail,
  withPorts,
  ask,
} = terminal;

function tellEnd(value: object, session: string, outcome: string, reason = '', result = ''): void {
  if (globalOptions().output === 'json')
    process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
  else tell(`\n${[`${outcome} in session ${session}`, reason, result].filter(Boolean).join('\n')}`);
}
/** One more than is shown tells that there are more; the server's own bound is ten thousand. */
const oneMore = (max: number) => Math.min(max + 1, 10_000);
const more = (found: number, max: number, total?: number) =>
  found > max
    ? `\n\nthe last ${max}${total ? ` of ${total}` : '; there are more'}: -n <number>`
    : '';
const actor = () => actorFrom(process.env);

program
  .command('run')
  .description('publish a task and follow it to its result')
  .argument('<agent>')
  .argument('<input>', 'text or JSON')
  .option('-t, --tenant <tenant>', 'tenant', 'acme')
  .option('--id <id>', 'task id; publishing the same id again lands on the same session')
  .option('--session <key>', 'address a long-lived session by key')
  .option('-d, --detach', 'do not wait for the result')
  .action(
    async (
      agent: string,
      input: string,
      options: { tenant: string; id?: string; session?: string; detach?: boolean },
    ) => {
      const task = taskOf(agent, input, options, `cli-${randomUUID()}`);
      const { prefix, explain, timeout, output } = globalOptions();
      if (explain) {
        const headers = Object.entries(task.headers).map(
          ([name, value]) => `-H ${quoted(`${name}:${value}`)}`,
        );
        say(
          `nats --server ${serverUrl()} pub -J ${headers.join(' ')} ${prefix}.task.${task.tenant}.${task.agent} ${quoted(task.body)}`,
        );
        return;
      }
      await withPorts(async (opened) => {
        const ports = { ...opened, waitMs: timeout };
        if (options.detach) {
          await ports.tasks.publish(task.tenant, task.agent, task.body, task.headers);
          print(
            { task: task.id, session: task.session },
            () =>
              `accepted as task ${task.id}, session ${task.session}\n${hint(`  next: understudy inspect ${task.session}, or understudy dlq if there is no such session`)}`,
          );
          return;
        }
        const isText = output === 'text';
        const isCompleted = await runTask(task, ports, {
          onKnown: ({ id, session }, status) =>
            note(`task ${id} was accepted before: its session ${session} is ${status}`),
          onStep(event) {
            if (!isText) return;
            tell(eventLine(event));
            if (event.data.effects.some(({ kind }) => kind === 'askHuman'))
              say(`  a person must decide: understudy approve ${event.data.session}`);
          },
          onEnd: (event) =>
            tellEnd(event, event.data.session, event.data.to, event.data.reason, event.data.output),
          onRefused: ({ id, code, reason }) =>
            fail(
              {
                code,
                message: reason,
                next: nextOf(code) ?? `understudy dlq ${id}, then understudy requeue ${id}`,
                exitCode: 4,
              },
              { letter: id },
            ),
          onPast: ({ session }, { status, reason }, result) =>
            tellEnd({ session, status, output: result }, session, status, reason, result),
          onSilence({ session }) {
            note(
              `nothing heard for ten seconds; what it waits for: understudy inspect ${session}, understudy doctor`,
            );
            // Its agent may stand in a document that is refused: then the task waits for a good one.
            void ask<Health>('doctor', {}).then(
              (health) => {
                for (const { file, field, message, isNote } of health?.problems ?? [])
                  if (!isNote) note(`BAD ${file}: ${field ? `${field}: ` : ''}${message}`);
              },
              () => undefined,
            );
          },
        });
        if (!isCompleted) process.exitCode = 4;
      });
    },
  );

program
  .command('ps')
  .description('sessions: what each waits on, since when')
  .option('-a, --all', 'those that ended lately as well')
  .option('-t, --tenant <tenant>')
  .option('--agent <agent>')
  .addOption(
    new Option('--status <status>').choices([
      'active',
      'paused',
      'parked',
      'completed',
      'failed',
      'halted',
    ]),
  )
  .option('-n, --max <n>', 'at most so many', count, 50)
  .action(
    async ({
      all,
      max,
      ...filter
    }: {
      all?: boolean;
      tenant?: string;
      agent?: string;
      status?: string;
      max: number;
    }) => {
      const ended = Boolean(all || filter.status);
      const sessions = await ask<SessionSummary[]>('list', {
        ...filter,
        max: oneMore(max),
        ended,
      });
      if (!sessions) return;
      const isCut = sessions.length > max;
      // Only for the line below the table: a runtime of an earlier version cannot tell.
      const counts = isCut
        ? await ask<SessionCounts>('count', { ...filter, ended }).catch(() => undefined)
        : undefined;
      print(
        sessions.slice(0, max),
        () =>
          `${sessionTable(sessions.slice(0, max), Date.now())}${more(sessions.length, max, counts?.total)}`,
      );
    },
  );

program
  .command('inspect')
  .description('one session: state, what it waits on, owner, spending')
  .argument('<session>')
  .option('-c, --conversation', 'its conversation as well')
  .action(async (session: string, options: { conversation?: boolean }) => {
    const found = await ask<Parameters<typeof inspectText>[0]>('inspect', {
      session,
      conversation: Boolean(options.conversation),
    });
    if (found) print(found, () => inspectText(found, Date.now()));
  });

program
  .command('tail')
  .description('what happens, as it happens')
  .argument('[session]')
  .option('-t, --tenant <tenant>')
  .option('--agent <agent>')
  .option('--from-start', 'what happened before now as well')
  .action((session: string | undefined, options: TailOptions) => tail(session, options, terminal));

for (const [verb, description] of [
  ['pause', 'hold a session: it keeps what comes for later'],
  ['resume', 'let a paused or parked session go on'],
  ['halt', 'end a session now, and its children'],
] as const) {
  program
    .command(verb)
    .description(description)
    .argument('<session>')
    .option('-r, --reason <text>', 'why; it is recorded', '')
    .action(async (session: string, { reason }: { reason: string }) => {
      const summary = await ask<{ status: string; state: string }>(verb, {
        session,
        actor: actor(),
        reason,
      });
      if (summary) print(summary, () => `${session} is ${summary.status}`);
    });
}

program
  .command('tell')
  .description("send an event to a session of a machine of one's own")
  .argument('<session>')
  .argument('<event>', 'its type, or JSON with a type')
  .option('--id <id>', 'event id; the same event again, with the same id, is heard once')
  .action(async (session: string, text: string, options: { id?: string }) => {
    const event = eventIn(text);
    const id = options.id ?? `cli-${randomUUID()}`;
    const { prefix, explain, timeout } = globalOptions();
    // Also where it is only explained: whose session it is stands in the subject.
    const answer = await withPorts(({ control }) =>
      control.ask('inspect', { session, conversation: false }, timeout),
    );
    if (!answer.ok) throw new Refused(answer.code, answer.message);
    const { summary } = answer.value as Parameters<typeof inspectText>[0];
    const { tenant, status } = summary;
    if (isFinal(status))
      throw new Refused('EVENT_UNHEARD', `session ${session} is ${status}: it hears no events`);
    const body = JSON.stringify(event);
    if (explain)
      return say(
        `nats --server ${serverUrl()} pub -J -H ${quoted(`Understudy-Event:${id}`)} ${prefix}.tell.${tenant}.${session} ${quoted(body)}`,
      );
    await withPorts(async ({ tasks }) => {
      await tasks.tell(tenant, session, body, { 'Understudy-Event': id });
      print({ event: id, session }, () =>
        [
          `event ${event.type} is accepted for ${session}, as ${id}`,
          hint(`  next: understudy inspect ${session}, or understudy dlq if nobody hears it`),
        ].join('\n'),
      );
    });
  });

program
  .command('approvals')
  .description('what waits for a person; of one session all of it')
  .argument('[session]')
  .option('-t, --tenant <tenant>')
  .option('--agent <agent>')
  .action(async (session: string | undefined, filter: { tenant?: string; agent?: string }) => {
    const wanted = await ask<ApprovalSummary[]>(
      'approvals',
      session === undefined ? filter : { session },
    );
    if (!wanted) return;
    print(wanted, () =>
      session === undefined || wanted.length === 0
        ? approvalTable(wanted, Date.now())
        : wanted.map((one) => approvalText(one, Date.now())).join('\n\n'),
    );
  });

program
  .command('approve')
  .description('let a call happen, as it is or edited; shows it and asks, or wants its hash')
  .argument('[session]', 'left out with --all')
  .option('--approval <id>', 'which, when there are several')
  .option('--hash <hash>', 'of the payload that you looked at: a decision about another is refused')
  .option('--all', 'all that wait now: shown first, and asked about once')
  .option('-t, --tenant <tenant>', 'with --all')
  .option('--agent <agent>', 'with --all')
  .option('-r, --reason <text>', 'why; it is recorded', '')
  .option('--edit <json>', 'run it with these arguments instead: all of them, nothing is merged')
  .action((session: string | undefined, options: ApproveOptions) =>
    approve(session, options, { terminal, actor: actor() }),
  );

program
  .command('reject')
  .description('refuse a call; the agent is told why')
  .argument('<session>')
  .option('--approval <id>', 'which, when there are several')
  .option('--hash <hash>', 'of the payload that you looked at: a decision about another is refused')
  .option('-r, --reason <text>', 'why; it is recorded', '')
  .action(
    async (
      session: string,
      { approval, hash, reason }: { approval?: string; hash?: string; reason: string },
    ) => {
      const done = await ask<Decided>('reject', {
        session,
        actor: actor(),
        reason,
        ...(approval ? { approval } : {}),
        ...(hash ? { hash } : {}),
      });
      if (done) print(done, () => decidedText('rejected', session, done));
    },
  );

program
  .command('dlq')
  .description('dead letters, newest first: what could not be done, and why; of one all of it')
  .argument('[id]', 'its number', count)
  .option('-n, --max <n>', 'at most so many', count, 50)
  .option('--before <id>', 'only letters with a smaller number: the next page', count)
  .option('--rm', 'throw it away; with --all all that fit the filter')
  .option('--all', 'with --rm')
  .option('-t, --tenant <tenant>', 'with --rm --all')
  .option('--agent <agent>', 'with --rm --all')
  .option('--code <code>', 'with --rm --all')
  .action(async (id: number | undefined, { max, before, rm, ...filter }: DlqOptions) => {
    if (rm) return throwAway(id, filter);
    if (id !== undefined) {
      const [letter] = (await ask<WholeLetter[]>('dead', { id })) ?? [];
      if (letter) print(letter, () => letterText(letter, Date.now()));
      return;
    }
    const letters = await ask<Letter[]>('dead', {
      max: oneMore(max),
      ...(before ? { before } : {}),
    });
    if (!letters) return;
    const page = letters.slice(0, max);
    const next = hint(`\n\nthere are more: understudy dlq --before ${page.at(-1)?.id}`);
    print(page, () => `${deadTable(page, Date.now())}${letters.length > max ? next : ''}`);
  });

interface DlqOptions extends LetterFilter {
  max: number;
  before?: number;
  rm?: boolean;
}
interface LetterFilter {
  all?: boolean;
  tenant?: string;
  agent?: string;
  code?: string;
}

async function throwAway(id: number | undefined, filter: LetterFilter): Promise<void> {
  mustBeOneOrAll(id, filter.all);
  const done = await ask<Discarded>(
    'discard',
    id === undefined ? { ...filter, all: true } : { id },
  );
  if (done) print(done, () => `${done.discarded} thrown away`);
}

function mustBeOneOrAll(id: number | undefined, all: boolean | undefined): void {
  if ((id === undefined) !== Boolean(all))
    throw new Refused('USAGE', 'name one dead letter, or say --all: one of the two');
}

program
  .command('requeue')
  .description('publish a dead letter again, as it was or edited')
  .argument('[id]', 'its number in understudy dlq', count)
  .option('--all', 'all of them')
  .option('--code <code>', 'with --all: only those')
  .option('--body <json>', 'with this body instead')
  .option('--agent <agent>', 'for this agent instead')
  .option('--tenant <tenant>', 'for this tenant instead')
  .action(
    async (
      id: number | undefined,
      {
        all,
        code,
        body,
        agent,
        tenant,
      }: { all?: boolean; code?: string; body?: string; agent?: string; tenant?: string },
    ) => {
      mustBeOneOrAll(id, all);
      if (all && body !== undefined)
        throw new Refused('USAGE', '--body is for one dead letter, not for all of them');
      const done = await ask<Requeued>('requeue', {
        ...(id === undefined ? { all: true } : { id }),
        ...(code ? { code } : {}),
        ...(body === undefined ? {} : { body }),
        ...(agent ? { toAgent: agent } : {}),
        ...(tenant ? { toTenant: tenant } : {}),
      });
      if (!done) return;
      if (done.requeued === 0) process.exitCode = 1;
      print(done, () =>
        [
          `${done.requeued} published again`,
          ...done.tasks.map((task) => `  as task ${task}`),
          ...done.refused.map((line) => `not requeued: ${line}`),
          ...(done.requeued > 0
            ? [hint('next: understudy tail --from-start | understudy ps --all')]
            : []),
        ].join('\n'),
      );
    },
  );

program
  .command('validate')
  .description('check a folder of agents, tools, models and tenants, without a server')
  .argument('<folder>')
  .action(async (folder: string) => {
    const checked = await validate(folder, (given) => loadSpecs(given, esbuildMachines()));
    if (checked.problems.length > 0) process.exitCode = 1;
    print(checked, () => validatedText(checked));
  });

program
  .command('verify')
  .description('fold the log of a session from its beginning, and compare with what is stored')
  .argument('<session>')
  .action(async (session: string) => {
    const verdict = await ask<Verdict>('verify', { session });
    if (!verdict) return;
    if (!verdict.isEqual) process.exitCode = 1;
    print(verdict, () => verifyText(verdict));
  });

program
  .command('doctor')
  .description('is everything as it should be?')
  .action(async () => {
    const found = await ask<Health>('doctor', {});
    if (!found) return;
    if (!isHealthy(found)) process.exitCode = 1;
    print(found, () => doctorText(found));
  });

addMcpCommands(program, terminal);

program
  .command('url')
  .description('the NATS server that this command talks to')
  .action(() => print({ url: serverUrl() }, serverUrl));

// Who reads us has had enough (`understudy tail | head`): told by the next write.
process.stdout.on('error', (error: NodeJS.ErrnoException) =>
  process.exit(error.code === 'EPIPE' ? (process.exitCode ?? 0) : 70),
);
process.stderr.on('error', () => undefined);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    const isHelp = error.exitCode === 0;
    // Its text has been printed, but for programs.
    if (!isHelp && isJson())
      fail(failureOf(new Refused('USAGE', error.message.replace(/^error: /, '')), serverUrl()));
    process.exitCode = isHelp ? 0 : 2;
  } else {
    fail(failureOf(error, serverUrl()));
  }
}
// What a pipe has not taken yet would be lost with the process.
process.stdout.write('', () => process.stderr.write('', () => process.exit()));
