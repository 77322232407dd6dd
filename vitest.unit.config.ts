import { defineConfig } from 'vitest/config';

/** `make unit`: what needs no server. Contract suites run over the memory adapters only. */
export default defineConfig({
  test: {
    include: [
      'test/core/**/*.test.ts',
      'test/golden/**/*.test.ts',
      'test/runtime/**/*.test.ts',
      'test/gateway/**/*.test.ts',
      'test/executor/**/*.test.ts',
      'test/cli/**/*.test.ts',
      'test/bench/**/*.test.ts',
      'test/contract/{mailbox,queues,session-store,rate-limits,gathering,publisher,model,model-dialects}.test.ts',
      'test/*.test.ts',
    ],
    env: { UNDERSTUDY_UNIT: '1' },
    testTimeout: 20_000,
    pool: 'forks',
    maxWorkers: 6, // most tests wait: two would take twice the time
  },
});
