/** Tokens as they come, on core NATS: the text is the body, what it belongs to stands in the headers. */
import { headers, type MsgHdrs } from 'nats';
import type { SessionId, TenantId } from '../../core/ids.ts';
import type { TokenPiece, Tokens } from '../../ports/tokens.ts';
import type { Nats } from './connection.ts';

export function natsTokens({ connection, subjects }: Nats): Tokens {
  /** Of the attempts under way: their pieces differ in nothing but the text. */
  const known = new Map<string, MsgHdrs>();
  const headersOf = ({ call, attempt, part, end }: TokenPiece): MsgHdrs => {
    const name = `${call}/${attempt}`;
    const found = part === 'text' ? known.get(name) : undefined;
    if (found) return found;
    const made = headers();
    made.set('Understudy-Call', call);
    made.set('Understudy-Attempt', String(attempt));
    made.set('Understudy-Part', part);
    if (end) made.set('Understudy-End', end);
    if (part === 'text') known.set(name, made);
    if (part === 'end') known.delete(name);
    return made;
  };
  return (piece) => {
    const subject = subjects.stream(piece.tenant as TenantId, piece.session as SessionId);
    connection.publish(subject, piece.text, { headers: headersOf(piece) });
  };
}
