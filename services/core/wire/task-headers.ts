/** Headers of a task as they are published by us. */

/**
 * The id in our own header, where it is nobody's business but its session's. `Nats-Msg-Id` would
 * put it into the broker's window, which knows ids of all tenants and drops what repeats one.
 */
export function taskHeaders(headers: Readonly<Record<string, string>>): Record<string, string> {
  const { 'Nats-Msg-Id': id, ...others } = headers;
  return id === undefined ? others : { 'Understudy-Task': id, ...others };
}
