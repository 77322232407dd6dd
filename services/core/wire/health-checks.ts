/** Is everything as it should be? One answer for the terminal, its exit code and the browser. */
import type { Health } from './control-answers.ts';

export interface Check {
  /** good; look: worth a look, nothing is broken; bad: something does not work. */
  readonly verdict: 'good' | 'look' | 'bad';
  readonly what:
    | 'shards'
    | 'tasks'
    | 'mail'
    | 'dead letters'
    | 'parked'
    | 'failed'
    | 'pool'
    | 'agents'
    | 'document';
  readonly text: string;
}

export function checksOf({
  shards,
  owned,
  orphans,
  hosts,
  mail,
  oldestMailNeeded,
  deadLetters,
  tasks,
  parked,
  failed,
  pools,
  agents,
  problems,
}: Health): Check[] {
  const check = (what: Check['what'], isGood: boolean, text: string): Check => ({
    verdict: isGood ? 'good' : 'bad',
    what,
    text,
  });
  const without =
    orphans.length > 0 ? `; without owner: ${orphans.join(', ')} (is a runtime running?)` : '';
  const names = agents.map(
    ({ name, revision, tools }) =>
      `${name}@${revision.slice(0, 8)} (${tools} ${tools === 1 ? 'tool' : 'tools'})`,
  );
  const lastGood = agents.filter(({ isLastGood }) => isLastGood).map(({ name }) => name);
  return [
    check(
      'shards',
      orphans.length === 0,
      `shards: ${owned} of ${shards} owned by ${hosts.join(', ') || 'nobody'}${without}`,
    ),
    check('tasks', tasks.isTaken && !tasks.stuck, `tasks: ${taskText(tasks)}`),
    check(
      'mail',
      true,
      `mail: ${mail.last === 0 || mail.last < mail.first ? 'empty' : `sequences ${mail.first} to ${mail.last}, needed from ${oldestMailNeeded} on`}`,
    ),
    {
      verdict: deadLetters === 0 ? 'good' : 'look',
      what: 'dead letters',
      text: `dead letters: ${deadLetters}`,
    },
    ...(parked > 0
      ? [{ verdict: 'look', what: 'parked', text: `parked sessions: ${parked}` } as const]
      : []),
    ...(failed > 0
      ? [{ verdict: 'look', what: 'failed', text: `failed within an hour: ${failed}` } as const]
      : []),
    ...pools.map(({ pool, asking, queued, inHand }) => {
      const isAsked = asking + inHand > 0;
      return check(
        'pool',
        isAsked,
        `${pool === 'models' ? 'gateways' : `executors of pool ${pool}`}: ${isAsked ? '' : 'nobody asks for work; '}${queued} waiting, ${inHand} in hand`,
      );
    }),
    check(
      'agents',
      agents.length > 0,
      `agents: ${names.join(', ') || 'none; a runtime reads them from UNDERSTUDY_SPECS, or from ConfigMaps with the label understudy.dev/specs'}`,
    ),
    ...(lastGood.length > 0
      ? [
          {
            verdict: 'look',
            what: 'agents',
            text: `run their last good revision, because what they name is refused or not known yet: ${lastGood.join(', ')}`,
          } as const,
        ]
      : []),
    ...problems.map(
      ({ file, field, message, isNote }): Check => ({
        verdict: isNote ? 'look' : 'bad',
        what: 'document',
        text: `${file}: ${field ? `${field}: ` : ''}${message}`,
      }),
    ),
  ];
}

function taskText({ waiting, stuck, isTaken }: Health['tasks']): string {
  if (!isTaken) return `${waiting} waiting, and no runtime takes them in`;
  if (!stuck) return `${waiting} waiting to be taken in`;
  return `${waiting} waiting, some behind what was acknowledged: they are read again within seconds; if this stays, restart the runtimes`;
}

export const isHealthy = (health: Health): boolean =>
  checksOf(health).every(({ verdict }) => verdict !== 'bad');
