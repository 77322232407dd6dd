/** Settings from the environment, parsed once at the start. Every variable of ours begins with UNDERSTUDY_. */

import { hostname, userInfo } from 'node:os';
import { delimiter, resolve } from 'node:path';
import { z } from 'zod';
import { issuesOf, Refused } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import { modelPool, toolPool } from '../../core/pools.ts';

/** Every variable that a service reads; docs/settings.md is made from it. */
export const settingsSchema = z.object({
  UNDERSTUDY_NATS_URL: z
    .string()
    .default('nats://127.0.0.1:4222')
    .describe('comma-separated for a cluster'),
  UNDERSTUDY_NATS_USER: z.string().optional().describe('where NATS wants one'),
  UNDERSTUDY_NATS_PASSWORD: z.string().optional().describe('of that user'),
  UNDERSTUDY_REDIS_URL: z
    .string()
    .default('redis://127.0.0.1:6379')
    .describe('redis://, redis-sentinel://a,b#master or redis-cluster://a,b; rediss for TLS'),
  UNDERSTUDY_REDIS_USER: z.string().optional().describe('where Redis wants one'),
  UNDERSTUDY_REDIS_PASSWORD: z.string().optional().describe('of that user'),
  UNDERSTUDY_REDIS_SENTINEL_PASSWORD: z
    .string()
    .optional()
    .describe('of the sentinels, where they want one'),
  UNDERSTUDY_PREFIX: z
    .string()
    .regex(/^[a-z0-9-]+$/)
    .default('understudy')
    .describe('of subjects, streams and keys'),
  UNDERSTUDY_SHARDS: z.coerce
    .number()
    .int()
    .positive()
    .max(4_096)
    .default(limits.shardsDefault)
    .describe('how many shards; fixed at install'),
  UNDERSTUDY_INSTANCE: z
    .string()
    .regex(/^[A-Za-z0-9-]+$/, 'letters, digits and - only')
    .optional()
    .describe(
      'stable name of this process: a runtime that comes back under its own name takes its shards at once, and no other process may have it; without one, host name and pid',
    ),
  UNDERSTUDY_SPECS: z
    .string()
    .default('agents')
    .describe(
      'folder of Agent, Tool, Model and Tenant documents, or several, separated as in PATH',
    ),
  UNDERSTUDY_NAMESPACE: z
    .string()
    .optional()
    .describe('on Kubernetes: the namespace whose labelled ConfigMaps hold specs as well'),
  UNDERSTUDY_SANDBOXES: z
    .string()
    .optional()
    .describe(
      'on Kubernetes: Service and Deployment of the sandbox pool; else sandboxes are processes',
    ),
  UNDERSTUDY_SANDBOXES_WARM: z.coerce
    .number()
    .int()
    .min(0)
    .default(2)
    .describe('on Kubernetes: free sandboxes that are kept ready'),
  UNDERSTUDY_SANDBOXES_MAX: z.coerce
    .number()
    .int()
    .positive()
    .default(8)
    .describe('on Kubernetes: sandboxes at the most'),
  UNDERSTUDY_SANDBOX_WAIT_MS: z.coerce
    .number()
    .int()
    .positive()
    .default(limits.sandboxWaitMs)
    .describe('how long a call waits for a free sandbox'),
  UNDERSTUDY_EGRESS_ADDRESS: z
    .string()
    .default('127.0.0.1')
    .describe('where sandboxes reach this executor for their way out'),
  UNDERSTUDY_EGRESS_PORT: z.coerce
    .number()
    .int()
    .min(0)
    .max(65_535)
    .default(0)
    .describe('0 takes a free one'),
  UNDERSTUDY_SANDBOX_IDLE_MS: z.coerce
    .number()
    .int()
    .positive()
    .default(limits.sandboxIdleMs)
    .describe("how long a session's sandbox is kept for its next call"),
  UNDERSTUDY_FILES: z
    .string()
    .default('.')
    .describe('folder that the built-in file tools may read'),
  UNDERSTUDY_POOL: z
    .string()
    .regex(/^[a-z0-9-]+$/)
    .refine((pool) => pool !== modelPool, `${modelPool} is the pool of model calls`)
    .default(toolPool)
    .describe('pool of an executor: Tools name it'),
  UNDERSTUDY_CREDENTIAL_KEY: z
    .string()
    .optional()
    .describe(
      'of the executors of one pool: keeps what people sign in for at MCP servers; 32 characters or more',
    ),
  UNDERSTUDY_SCRATCH: z
    .string()
    .optional()
    .describe(
      "folder below which sessions' scratch folders are made; without one, that of temporary files",
    ),
  UNDERSTUDY_HTTP_PORT: z.coerce
    .number()
    .int()
    .min(0)
    .max(65_535)
    .default(0)
    .describe('probes and metrics; 0 takes a free port'),
  UNDERSTUDY_LOG_LEVEL: z
    .enum(['debug', 'info', 'warn', 'error'])
    .default('info')
    .describe('debug shows every step'),
  UNDERSTUDY_CONCURRENCY: z.coerce
    .number()
    .int()
    .positive()
    .optional()
    .describe(
      `calls in hand at a time; default: ${limits.modelCallsMax} of a gateway, as far as its memory goes, ${limits.performMax} of an executor`,
    ),
  UNDERSTUDY_LEASE_MS: z.coerce
    .number()
    .int()
    .min(3 * limits.leaseRenewMs)
    .default(limits.leaseMs)
    .describe("a dead runtime's shards move after this"),
  UNDERSTUDY_CONSOLE_ADDRESS: z
    .string()
    .default('127.0.0.1')
    .describe('where people reach the console'),
  UNDERSTUDY_CONSOLE_PORT: z.coerce
    .number()
    .int()
    .min(0)
    .max(65_535)
    .default(0)
    .describe('0 takes a free one'),
  UNDERSTUDY_CONSOLE_TOKEN: z
    .string()
    .min(16, 'at least 16 characters')
    .optional()
    .describe('who knows it may look and act'),
  UNDERSTUDY_CONSOLE_USER_HEADER: z
    .string()
    .regex(/^[A-Za-z0-9-]+$/)
    .optional()
    .describe('header in which a proxy in front says who it is; only behind one'),
  UNDERSTUDY_REPLICAS: z.coerce
    .number()
    .int()
    .min(1)
    .max(5)
    .default(1)
    .describe('copies of each stream'),
});

const isLoopbackAddress = (address: string) =>
  address === 'localhost' || address === '::1' || /^127(\.\d{1,3}){3}$/.test(address);

export interface Settings {
  readonly nats: {
    readonly url: string;
    readonly user: string | undefined;
    readonly password: string | undefined;
    readonly replicas: number;
  };
  readonly redisUrl: string;
  readonly redisCredentials: {
    readonly user: string | undefined;
    readonly password: string | undefined;
    readonly sentinelPassword: string | undefined;
  };
  readonly prefix: string;
  readonly shards: number;
  readonly instance: string;
  /** Folders of specs; a machine that two of them have is that of the first. */
  readonly specs: readonly string[];
  readonly namespace: string | undefined;
  readonly sandboxes: {
    readonly service: string | undefined;
    readonly warm: number;
    readonly max: number;
    readonly waitMs: number;
    readonly idleMs: number;
  };
  readonly egress: { readonly address: string; readonly port: number };
  readonly console: {
    readonly address: string;
    readonly port: number;
    readonly token: string | undefined;
    readonly userHeader: string | undefined;
  };
  readonly files: string;
  readonly pool: string;
  readonly credentialKey: string | undefined;
  readonly scratch: string | undefined;
  readonly httpPort: number;
  readonly logLevel: string;
  readonly concurrency: number | undefined;
  readonly leaseMs: number;
}

/** Who acts here, for what is recorded: as was said, else the user of this machine. In a container a user need not have a name. */
export function actorFrom(
  environment: Readonly<Record<string, string | undefined>>,
  lookUp: () => { username: string } = userInfo,
): string {
  if (environment.UNDERSTUDY_ACTOR) return environment.UNDERSTUDY_ACTOR;
  try {
    return lookUp().username;
  } catch {
    return `uid-${process.getuid?.() ?? 'unknown'}@${hostname()}`;
  }
}

/** @throws Refused naming the variable */
export function settingsFrom(environment: Readonly<Record<string, string | undefined>>): Settings {
  const given = Object.fromEntries(
    Object.entries(environment).filter(
      ([name, value]) => name.startsWith('UNDERSTUDY_') && value !== '',
    ),
  );
  const parsed = settingsSchema.safeParse(given);
  if (!parsed.success)
    throw new Refused('SETTINGS_INVALID', `environment: ${issuesOf(parsed.error)}`);
  const value = parsed.data;
  if (
    !isLoopbackAddress(value.UNDERSTUDY_CONSOLE_ADDRESS) &&
    !value.UNDERSTUDY_CONSOLE_TOKEN &&
    !value.UNDERSTUDY_CONSOLE_USER_HEADER
  )
    throw new Refused(
      'SETTINGS_INVALID',
      `environment: UNDERSTUDY_CONSOLE_ADDRESS=${value.UNDERSTUDY_CONSOLE_ADDRESS} is open to others: set UNDERSTUDY_CONSOLE_TOKEN, or UNDERSTUDY_CONSOLE_USER_HEADER behind a proxy that logs people in`,
    );
  return {
    nats: {
      url: value.UNDERSTUDY_NATS_URL,
      user: value.UNDERSTUDY_NATS_USER,
      password: value.UNDERSTUDY_NATS_PASSWORD,
      replicas: value.UNDERSTUDY_REPLICAS,
    },
    redisUrl: value.UNDERSTUDY_REDIS_URL,
    redisCredentials: {
      user: value.UNDERSTUDY_REDIS_USER,
      password: value.UNDERSTUDY_REDIS_PASSWORD,
      sentinelPassword: value.UNDERSTUDY_REDIS_SENTINEL_PASSWORD,
    },
    prefix: value.UNDERSTUDY_PREFIX,
    shards: value.UNDERSTUDY_SHARDS,
    instance:
      value.UNDERSTUDY_INSTANCE ?? `${hostname().replace(/[^A-Za-z0-9-]/g, '-')}-${process.pid}`,
    specs: value.UNDERSTUDY_SPECS.split(delimiter)
      .filter((folder) => folder !== '')
      .map((folder) => resolve(folder)),
    namespace: value.UNDERSTUDY_NAMESPACE,
    sandboxes: {
      service: value.UNDERSTUDY_SANDBOXES,
      warm: value.UNDERSTUDY_SANDBOXES_WARM,
      max: value.UNDERSTUDY_SANDBOXES_MAX,
      waitMs: value.UNDERSTUDY_SANDBOX_WAIT_MS,
      idleMs: value.UNDERSTUDY_SANDBOX_IDLE_MS,
    },
    egress: { address: value.UNDERSTUDY_EGRESS_ADDRESS, port: value.UNDERSTUDY_EGRESS_PORT },
    console: {
      address: value.UNDERSTUDY_CONSOLE_ADDRESS,
      port: value.UNDERSTUDY_CONSOLE_PORT,
      token: value.UNDERSTUDY_CONSOLE_TOKEN,
      userHeader: value.UNDERSTUDY_CONSOLE_USER_HEADER,
    },
    files: resolve(value.UNDERSTUDY_FILES),
    pool: value.UNDERSTUDY_POOL,
    credentialKey: value.UNDERSTUDY_CREDENTIAL_KEY,
    scratch: value.UNDERSTUDY_SCRATCH,
    httpPort: value.UNDERSTUDY_HTTP_PORT,
    logLevel: value.UNDERSTUDY_LOG_LEVEL,
    concurrency: value.UNDERSTUDY_CONCURRENCY,
    leaseMs: value.UNDERSTUDY_LEASE_MS,
  };
}
