/** What taking tasks and events in needs. */
import type { Catalog } from '../core/session/specs.ts';
import type { Events } from '../ports/events.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { Telemetry } from '../ports/telemetry.ts';

export interface IntakePorts {
  readonly mailbox: Mailbox;
  readonly events: Events;
  readonly telemetry: Telemetry;
  readonly catalog: () => Catalog;
  /** May it stand in a spec that is broken now? */
  readonly isUnsure: (name: string) => boolean;
  readonly shards: number;
}
