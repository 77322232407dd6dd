/** Names from outside: those that every object has, and those that look like another's. */
import { describe, expect, test } from 'vitest';
import {
  type AgentName,
  effectIdOf,
  keySeedOf,
  type SessionId,
  sessionIdOf,
  type TenantId,
  taskSeedOf,
} from '../../services/core/ids.ts';
import { canonicalText } from '../../services/core/json.ts';
import { stateHashOf } from '../../services/core/session/record.ts';
import { call, definitionOf, replied, Talk, task } from '../support/sessions.ts';

const thinking = () => {
  const talk = new Talk();
  talk.say(task());
  return talk;
};
const inherited = ['constructor', 'toString', 'valueOf', 'hasOwnProperty', '__proto__'];

describe('a name that every object has', () => {
  test.each(inherited)('%s is not a tool', (name) => {
    const talk = thinking();
    talk.say(replied(talk.pendingOf('callModel'), { calls: [call(name)] }));
    expect(talk.entries.at(-1)).toMatchObject({
      role: 'tool',
      content: expect.stringContaining('TOOL_UNKNOWN'),
    });
    expect(talk.record?.status).toBe('active');
  });

  test.each(inherited)('%s is not an agent', (agent) => {
    const talk = thinking();
    const calls = [call('delegate', { agent, input: 'x' })];
    talk.say(replied(talk.pendingOf('callModel'), { calls }));
    expect(talk.entries.at(-1)).toMatchObject({
      role: 'tool',
      content: expect.stringContaining('AGENT_UNKNOWN'),
    });
  });
});

describe('tasks, keys and children have name spaces of their own', () => {
  const of = (seed: string) => sessionIdOf('acme' as TenantId, 'desk' as AgentName, seed);
  const child = effectIdOf('boss-1' as SessionId, 3, 0);

  test('a task named like a key reaches another session than the key', () => {
    expect(of(taskSeedOf('key/chat'))).not.toBe(of(keySeedOf('chat')));
    expect(of(taskSeedOf('task/key/chat'))).not.toBe(of(taskSeedOf('key/chat')));
  });

  test("a task named like a child's effect reaches another session than the child", () => {
    expect(of(taskSeedOf(child))).not.toBe(of(child));
  });

  test('plain tasks, keys and children keep the sessions that they had', () => {
    expect(of(taskSeedOf('order-1'))).toBe(of('order-1'));
    expect(of(taskSeedOf('a/b key/c'))).toBe(of('a/b key/c'));
    expect(of(keySeedOf('chat'))).toBe(of('key/chat'));
  });
});

describe('arguments that a canonical spelling does not know', () => {
  test('half an emoji is a call as any other', () => {
    const talk = thinking();
    const calls = [call('look', '{"q":"\\ud83d"}')];
    talk.say(replied(talk.pendingOf('callModel'), { calls }));
    expect(talk.pendingOf('runTool')).toBeDefined();
    expect(talk.record?.status).toBe('active');
  });

  test('half an emoji can wait for a person, and is the same payload when it is looked at again', () => {
    const talk = new Talk(definitionOf({ approvals: [{ tool: 'look', expiresMs: 60_000 }] }));
    talk.say(task('half \ud83d of it'));
    const calls = [call('look', '{"q":"\\ud83d","\\udc00":1}')];
    talk.say(replied(talk.pendingOf('callModel'), { calls }));
    expect(talk.pendingOf('askHuman')).toBeDefined();
    expect(stateHashOf(talk.record!)).toMatch(/^[0-9a-f]{64}$/);
  });

  test('two different halves are two different calls', () => {
    expect(canonicalText({ q: '\ud83d' })).not.toBe(canonicalText({ q: '\ud83e' }));
    expect(canonicalText({ b: '\ud83d', a: 1 })).toBe(canonicalText({ a: 1, b: '\ud83d' }));
  });

  test('a number that is read as infinity is refused, and the model is told', () => {
    const talk = thinking();
    const calls = [call('look', '{"list":[{"n":1e999}]}')];
    talk.say(replied(talk.pendingOf('callModel'), { calls }));
    expect(talk.entries.at(-1)).toMatchObject({
      role: 'tool',
      content: expect.stringContaining('ARGUMENTS_INVALID'),
    });
    expect(talk.record?.status).toBe('active');
  });
});
