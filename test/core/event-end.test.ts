/** Which events are ends, whatever an agent is called. */
import { expect, test } from 'vitest';
import { type AgentName, sessionIdOf, type TenantId } from '../../services/core/ids.ts';
import { endIdOf, isEndEvent } from '../../services/core/wire/event-end.ts';

test('an agent whose name looks like an end has steps as well', () => {
  for (const agent of ['desk', 'back-end', 'x-end1', 'a-1-end2']) {
    const session = sessionIdOf('acme' as TenantId, agent as AgentName, 'task');
    expect(isEndEvent({ id: `${session}-7` }), agent).toBe(false);
    expect(isEndEvent({ id: endIdOf(`${session}-7`, 0) }), agent).toBe(true);
  }
});
