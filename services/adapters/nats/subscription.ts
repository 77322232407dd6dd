/** Messages of subscriptions: heard safely, and told apart. */
import type { Msg, NatsConnection, Subscription } from 'nats';

/**
 * Hear a subject. A callback that throws (the package decodes a message only when it is read) would end the package's reader, and with it every
 * subscription of the connection, until the server hangs up. It becomes a warning of the process instead, without the message's words, and the
 * next message is heard.
 *
 * @param onError  the broker forbids to hear it, or the connection is closed
 * @param queue  of those that hear it under this name, one hears each message
 */
export function hear(
  connection: NatsConnection,
  subject: string,
  callback: (message: Msg) => void,
  onError?: (error: Error) => void,
  queue?: string,
): Subscription {
  return connection.subscribe(subject, {
    ...(queue === undefined ? {} : { queue }),
    callback: (error, message) => {
      if (error) return onError?.(error);
      try {
        callback(message);
      } catch (failure) {
        const { name = 'Error', stack = '' } = failure as Error;
        const where = stack.split('\n').filter((line) => line.startsWith('    at '));
        process.emitWarning(
          `a message on ${subject} was skipped, for it could not be handled: ${name}`,
          { code: 'NATS_MESSAGE_SKIPPED', detail: where.slice(0, 5).join('\n') },
        );
      }
    },
  });
}

/** Messages of a stream carry an address for their ack; what the broker says of a request or of a consumer does not. */
export const isOfStream = (message: Msg): boolean => message.reply?.startsWith('$JS.ACK.') ?? false;

/**
 * May an answer go there? The broker checks the rights of who asks for the question only: an answer
 * on a subject of our own would be published with our rights. Only inboxes are answered, and none of
 * our services'.
 */
export const isInbox = (
  reply: string | undefined,
  ours = /^_INBOX_(?:runtime|gateway)\./,
): boolean => (reply?.startsWith('_INBOX') ?? false) && !ours.test(reply ?? '');
