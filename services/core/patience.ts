/** What a service needs before it can serve is asked for until it is there. */
import { messageOf, Unavailable } from './errors.ts';

/**
 * A process that gives up and is started again asks no better, costs its node a start each time, and is made to wait longer and longer
 * by who starts it. What will not get better (a wrong setting) is thrown at once.
 *
 * @param onWait   told why, after each try that failed
 * @param isWanted  whether it is still worth a try
 * @throws whatever is not Unavailable, and what failed last when it is not wanted any more
 */
export async function patiently<Value>(
  attempt: () => Promise<Value>,
  onWait: (why: string) => void,
  sleep: (ms: number) => Promise<void>,
  isWanted: () => boolean = () => true,
): Promise<Value> {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Unavailable) || !isWanted()) throw error;
      const { cause } = error;
      onWait(cause ? `${messageOf(error)}: ${messageOf(cause)}` : messageOf(error));
      await sleep(1_000);
    }
  }
}
