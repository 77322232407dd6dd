/** The system that is soaked: every service more than once, and an agent with a tight budget. */
import { System } from '../support/system.ts';

/** Tokens of an agent that runs out of them, so that its budget is tried and not only carried. */
export const frugalTokensMax = 7_000;

const specs = `apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: frugal }
spec:
  instructions: Follow the script.
  model: scripted
  tools: [pure, keyed]
  agents: [helper]
  outputTokensMax: 200
  limits: { stepsMax: 200, toolCallsMax: 200, tokensMax: ${frugalTokensMax} }
  loop: { sameCallMax: 50 }
`;

export const soakSystem = (): Promise<System> =>
  System.start({ runtimes: 3, gateways: 2, executors: 2, shards: 8, specs });
