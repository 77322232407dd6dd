/**
 * The values of the chart: one schema gives values.yaml, values.schema.json and docs/values.md (`npm run values`).
 * Every value says its unit and its reason.
 */
import { z } from 'zod';
import { limits } from '../services/core/limits.ts';
import { modelSpecSchema } from '../services/core/session/model-spec.ts';
import { agentDocumentSchema, tenantSpecSchema } from '../services/core/session/specs.ts';
import { mcpServerSpecSchema } from '../services/core/tools/mcp-server.ts';
import { toolSpecSchema } from '../services/core/tools/tool-spec.ts';

const quantity = z.union([z.string(), z.number()]);
const resources = (cpu: string, memory: string, memoryMax: string, why: string) =>
  z
    .object({
      requests: z
        .object({ cpu: quantity, memory: quantity })
        .partial()
        .loose()
        .default({ cpu, memory }),
      limits: z
        .object({ cpu: quantity, memory: quantity })
        .partial()
        .loose()
        .default({ memory: memoryMax }),
    })
    .strict()
    .prefault({})
    .describe(why);
const image = (repository: string, tag: string, what: string) =>
  z
    .object({
      repository: z
        .string()
        .default(repository)
        .describe('without the registry of global.imageRegistry'),
      tag: z
        .string()
        .default(tag)
        .describe(tag === '' ? "default: the chart's appVersion" : 'what the chart was tried with'),
      pullPolicy: z.enum(['Always', 'IfNotPresent', 'Never']).default('IfNotPresent'),
    })
    .strict()
    .prefault({})
    .describe(what);
const scheduling = {
  nodeSelector: z.record(z.string(), z.string()).default({}),
  tolerations: z.array(z.record(z.string(), z.unknown())).default([]),
  priorityClassName: z
    .string()
    .default('')
    .describe('for people who run more than this on their cluster'),
};
const storage = (size: string) =>
  z
    .object({
      size: z.string().default(size).describe('of the volume claim'),
      className: z.string().default('').describe("the cluster's default when empty"),
    })
    .strict()
    .prefault({});
const peers = (what: string) =>
  z.array(z.record(z.string(), z.unknown())).default([]).describe(what);
/** Executors of one more pool. What is not given is as `executor` has it; secrets never are. */
const executorPool = z
  .object({
    replicas: z.number().int().min(1),
    concurrency: z.number().int().min(1),
    environmentSecret: z.string(),
    resources: z.record(z.string(), z.unknown()),
    nodeSelector: z.record(z.string(), z.string()),
    tolerations: z.array(z.record(z.string(), z.unknown())),
    priorityClassName: z.string(),
  })
  .partial()
  .strict();
const document = <Schema extends z.ZodType>(schema: Schema, what: string) =>
  z
    .record(z.string().regex(/^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$/), schema)
    .default({})
    .describe(what);

export const valuesSchema = z
  .object({
    enabled: z.boolean().default(true).describe('false renders nothing: for a parent chart'),
    global: z
      .object({
        imageRegistry: z
          .string()
          .default('')
          .describe('put before every repository, e.g. registry.example.com/mirror'),
        imagePullSecrets: z.array(z.object({ name: z.string() })).default([]),
      })
      .loose()
      .prefault({})
      .describe('shared with a parent chart'),
    nameOverride: z.string().default('').describe('instead of the release name in all names'),

    image: image('understudy', '', 'runtime, gateway, executor, console and CLI'),
    sandboxImage: image('understudy-sandbox', '', 'the job runner: nothing else is in it'),

    prefix: z
      .string()
      .regex(/^[a-z0-9-]+$/)
      .default('understudy')
      .describe('of subjects, streams and keys: two installations on one NATS need two'),
    shards: z
      .number()
      .int()
      .min(1)
      .max(4_096)
      .default(limits.shardsDefault)
      .describe(
        'fixed at install: four times the most runtimes you will ever want; a runtime that is told another number refuses to start. Where NATS is synced (durability: strict) fewer are quicker',
      ),
    logLevel: z
      .enum(['debug', 'info', 'warn', 'error'])
      .default('info')
      .describe('debug logs every step'),
    durability: z
      .enum(['fast', 'strict'])
      .default('fast')
      .describe(
        'of the bundled NATS. fast survives any kill of a process; strict syncs every message and survives power loss',
      ),

    trustedCa: z
      .object({
        secret: z
          .string()
          .default('')
          .describe(
            'a Secret with certificates (PEM) of authorities that services trust besides the well-known ones: those of your own NATS, Redis, models and tools',
          ),
        key: z.string().min(1).default('ca.crt').describe('where in it'),
      })
      .strict()
      .prefault({}),

    nats: z
      .object({
        url: z
          .string()
          .default('')
          .describe(
            'your own NATS, comma-separated for a cluster (tls: encrypted, or not at all); empty installs a single one, for evaluation',
          ),
        existingSecret: z
          .string()
          .default('')
          .describe(
            'with your own NATS: a Secret with the passwords nats-runtime, nats-gateway, nats-executor, nats-console, nats-operator of users of these names, and nats-executor-<pool> for each of executor.pools',
          ),
        streamReplicas: z
          .number()
          .int()
          .min(1)
          .max(5)
          .default(1)
          .describe('copies of each stream: 3 on a cluster'),
        image: image('nats', '2.15', 'bundled NATS'),
        storage: storage('8Gi'),
        resources: resources(
          '100m',
          '128Mi',
          '1Gi',
          'JetStream keeps its index in memory; EFFECTS lives there wholly',
        ),
      })
      .strict()
      .prefault({}),
    redis: z
      .object({
        url: z
          .string()
          .default('')
          .describe(
            'your own Redis or Valkey: redis://host:6379, redis-sentinel://a:26379,b:26379#master, or redis-cluster://a:6379,b:6379 (rediss: encrypted); empty installs a single one, for evaluation',
          ),
        existingSecret: z
          .string()
          .default('')
          .describe(
            'with your own Redis: a Secret with the passwords redis-runtime and redis-gateway of users of these names, and redis-sentinel where the sentinels want one',
          ),
        image: image('redis', '7', 'bundled Redis'),
        storage: storage('4Gi'),
        resources: resources(
          '100m',
          '128Mi',
          '1Gi',
          'about 8 KiB for each session that is not over, and its conversation',
        ),
      })
      .strict()
      .prefault({}),

    model: z
      .object({
        baseUrl: z
          .string()
          .default('')
          .describe(
            'OpenAI-compatible; empty asks the scripted clerk of the example, or api.openai.com when a key is given',
          ),
        existingSecret: z
          .string()
          .default('')
          .describe(
            'a Secret whose keys become environment of the gateway alone, e.g. OPENAI_API_KEY',
          ),
      })
      .strict()
      .prefault({}),

    example: z
      .object({
        enabled: z
          .boolean()
          .default(true)
          .describe('the refund desk: its agents, and a payments service for its tools'),
        isCalm: z
          .boolean()
          .default(false)
          .describe('true: the payments service neither fails nor dies after it paid'),
        modelLatencyMs: z.number().int().min(0).default(150).describe('of the scripted clerk, ms'),
        storage: storage('1Gi'),
      })
      .strict()
      .prefault({}),

    agents: document(agentDocumentSchema, 'name: spec of an Agent'),
    tools: document(toolSpecSchema, 'name: spec of a Tool'),
    mcpServers: document(mcpServerSpecSchema, 'name: spec of an McpServer'),
    models: document(modelSpecSchema, 'name: spec of a Model'),
    tenants: document(
      tenantSpecSchema,
      'name: spec of a Tenant; each gets a NATS user that publishes for it alone',
    ),

    runtime: z
      .object({
        replicas: z
          .number()
          .int()
          .min(1)
          .default(2)
          .describe('a StatefulSet: a pod that comes back takes its shards at once'),
        leaseMs: z
          .number()
          .int()
          .min(1_500)
          .default(limits.leaseMs)
          .describe('ms after which the shards of a dead runtime are taken over'),
        resources: resources('250m', '256Mi', '1Gi', 'about 8 KiB for each session that is awake'),
        ...scheduling,
      })
      .strict()
      .prefault({}),
    gateway: z
      .object({
        replicas: z.number().int().min(1).default(2),
        concurrency: z
          .number()
          .int()
          .min(1)
          .default(limits.modelCallsMax)
          .describe(
            'model calls of one gateway at a time; its prompts take half of its memory at the most',
          ),
        resources: resources('250m', '192Mi', '1Gi', 'about 70 KiB for each call in flight'),
        ...scheduling,
      })
      .strict()
      .prefault({}),
    executor: z
      .object({
        replicas: z.number().int().min(1).default(2),
        concurrency: z
          .number()
          .int()
          .min(1)
          .default(64)
          .describe('tool calls of one executor at a time'),
        environmentSecret: z
          .string()
          .default('')
          .describe('a Secret whose keys tools may name as ${env:NAME}'),
        credentialKeySecret: z
          .string()
          .default('')
          .describe(
            'a Secret with keys of 32 characters or more, named executor and executor-<pool>, that keep what people sign in for at MCP servers; empty: made once and kept, which needs helm install or upgrade against the cluster',
          ),
        resources: resources(
          '100m',
          '192Mi',
          '1Gi',
          'grows with tools of kind process, which run inside its pod',
        ),
        ...scheduling,
        pools: z
          .record(z.string().regex(/^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$/), executorPool)
          .default({})
          .describe(
            'more executors, by the name that a Tool gives as its `pool`: each a deployment, a NATS user (nats-executor-<pool>) and an environment of its own; replicas, concurrency and resources default to those above',
          ),
      })
      .strict()
      .prefault({}),
    sandbox: z
      .object({
        enabled: z
          .boolean()
          .default(true)
          .describe('without it, tools of kind sandbox run as processes of the executor'),
        namespace: z
          .string()
          .regex(/^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$/)
          .default('')
          .describe(
            "where sandboxes run: a namespace that is there already, best for them alone, so that executors may touch no other pods; empty: the release's own",
          ),
        warm: z.number().int().min(0).default(2).describe('sandboxes that stand ready'),
        max: z
          .number()
          .int()
          .min(1)
          .default(8)
          .describe('sandboxes in use at a time; beyond it calls wait'),
        waitMs: z
          .number()
          .int()
          .min(100)
          .default(30_000)
          .describe('how long a call waits for a free one before it fails as transient, ms'),
        idleMs: z
          .number()
          .int()
          .min(500)
          .max(50_000)
          .default(5_000)
          .describe("how long a session's sandbox is kept for its next call, ms"),
        egress: z
          .boolean()
          .default(true)
          .describe(
            'tools may name hosts that their jobs reach through a proxy of the executor; networkPolicy.tools must allow those hosts as well',
          ),
        runtimeClassName: z
          .string()
          .default('')
          .describe(
            'gvisor, kata or whatever isolates better; empty is the default of the cluster',
          ),
        userNamespace: z
          .boolean()
          .default(false)
          .describe('hostUsers: false, where nodes can do it'),
        workspace: z
          .object({
            size: z
              .string()
              .default('256Mi')
              .describe('of the workspace; a pod that writes more is evicted'),
          })
          .strict()
          .prefault({}),
        resources: z
          .object({
            requests: z
              .object({ cpu: quantity, memory: quantity })
              .partial()
              .loose()
              .default({ cpu: '20m', memory: '64Mi' }),
            limits: z
              .object({ cpu: quantity, memory: quantity })
              .partial()
              .loose()
              .default({ cpu: '1', memory: '512Mi', 'ephemeral-storage': '512Mi' }),
          })
          .strict()
          .prefault({})
          .describe('of each sandbox: what one session can take from its neighbours'),
        ...scheduling,
      })
      .strict()
      .prefault({}),

    console: z
      .object({
        enabled: z
          .boolean()
          .default(true)
          .describe('a web page: sessions, approvals, dead letters, health'),
        replicas: z
          .number()
          .int()
          .min(1)
          .default(1)
          .describe('it holds nothing: any of them answers'),
        existingSecret: z
          .string()
          .default('')
          .describe(
            'a Secret whose key console-token lets people in (16 characters at least); empty: one is made and kept',
          ),
        userHeader: z
          .string()
          .regex(/^[A-Za-z0-9-]*$/)
          .default('')
          .describe(
            'behind a proxy that logs people in: the header in which it says who they are, e.g. X-Forwarded-User. networkPolicy.console must then admit that proxy alone',
          ),
        resources: resources(
          '20m',
          '96Mi',
          '256Mi',
          'it reads the events of each session that is looked at',
        ),
        ...scheduling,
      })
      .strict()
      .prefault({}),

    networkPolicy: z
      .object({
        enabled: z
          .boolean()
          .default(true)
          .describe('deny everything but the edges that are needed'),
        kubernetesApi: peers(
          'peers of the API server, e.g. [{ipBlock: {cidr: 10.0.0.1/32}}]; empty: found at install',
        ),
        models: peers(
          'where the gateway may go; empty: port 443 anywhere, if a model outside is used',
        ),
        tools: peers("where the executor may go for its tools, beside the example's payments"),
        publishers: peers(
          'who else may reach NATS; pods of this namespace with the label understudy.dev/client=true always may',
        ),
        console: peers(
          'who may reach the console, e.g. an ingress controller; kubectl port-forward always may',
        ),
        monitoring: peers('who may read metrics; empty: anyone in the cluster'),
      })
      .strict()
      .prefault({}),
    podMonitor: z
      .object({
        enabled: z.boolean().default(false).describe('needs the CRD of the Prometheus operator'),
        interval: z.string().default('15s'),
      })
      .strict()
      .prefault({}),
    autoscaling: z
      .object({
        enabled: z
          .boolean()
          .default(false)
          .describe(
            'KEDA scales gateway and executor by what waits in their queues; needs its CRDs',
          ),
        max: z.number().int().min(1).default(10),
        queuedPerReplica: z
          .number()
          .int()
          .min(1)
          .default(50)
          .describe('effects waiting for each replica'),
        prometheus: z
          .string()
          .default('')
          .describe(
            'address of a Prometheus that scrapes the runtimes: what waits there for its tenant to have room counts too; without it one tenant alone scales little up',
          ),
      })
      .strict()
      .prefault({}),
    keepData: z
      .boolean()
      .default(true)
      .describe('keep volumes and credentials of the bundled servers at uninstall'),
  })
  .strict();
