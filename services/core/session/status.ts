/** What a session's status and summary say. Imports nothing: the console's page uses it too. */

/** The statuses that a session does not leave. */
export const isFinal = (status: string): boolean =>
  status === 'completed' || status === 'failed' || status === 'halted';

/** @param waitingOn  as a summary says it: a kind and a name each */
export const waitsForPerson = ({ waitingOn }: { readonly waitingOn: string }): boolean =>
  waitingOn.split(', ').some((one) => one.startsWith('approval '));
