/** Tokens as they come, on core NATS: not stored, for whoever watches. */
import type { SessionId, TenantId } from '../../core/ids.ts';
import type { Nats } from './connection.ts';

export function natsTokens({
  connection,
  subjects,
}: Nats): (tenant: string, session: string, text: string) => void {
  return (tenant, session, text) =>
    connection.publish(subjects.stream(tenant as TenantId, session as SessionId), text);
}
