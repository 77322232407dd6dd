/** The statuses that a session does not leave. Imports nothing: the console's page uses it too. */
export const isFinal = (status: string): boolean =>
  status === 'completed' || status === 'failed' || status === 'halted';
