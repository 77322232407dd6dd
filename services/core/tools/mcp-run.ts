/** How an executor reaches an MCP server: the same words in a Tool and in an McpServer. */
import { z } from 'zod';

export const headers = z
  .record(z.string(), z.string())
  .default({})
  .describe(
    'values may name a secret of the executor as ${env:NAME}; the value itself never stands here',
  );

const reference = z
  .string()
  .regex(/^\$\{env:[A-Za-z_][A-Za-z0-9_]*\}$/, 'give a secret as ${env:NAME}, of the executors');

const mcpOauth = z
  .object({
    issuer: z
      .string()
      .min(1)
      .describe('authorization server; the credentials go to no other; may contain ${env:NAME}'),
    origins: z
      .array(z.url({ protocol: /^https?$/ }))
      .optional()
      .describe('further addresses of the issuer, where its tokens come from another host'),
    clientId: z.string().min(1).optional().describe('may contain ${env:NAME}'),
    clientSecret: reference.optional(),
    privateKey: reference.optional().describe('PEM: signs a token instead of a secret'),
    algorithm: z
      .enum(['RS256', 'RS384', 'RS512', 'PS256', 'ES256', 'ES384', 'EdDSA'])
      .default('RS256')
      .describe('of the private key'),
    scope: z.string().min(1).optional().describe('what is asked for, separated by spaces'),
    login: z
      .boolean()
      .optional()
      .describe('a person signs in, by understudy mcp login; without a clientId we register'),
    redirectUrl: z
      .url({ protocol: /^http$/, hostname: /^(127\.0\.0\.1|localhost)$/ })
      .optional()
      .describe('with login: where the browser is sent back to'),
    clientMetadataUrl: z
      .url({ protocol: /^https$/ })
      .optional()
      .describe('with login: who we are, for issuers that read it there'),
  })
  .strict()
  .superRefine(({ login, clientId, clientSecret, privateKey, ...rest }, context) => {
    const refuse = (message: string) => context.addIssue({ code: 'custom', message });
    if (login) {
      if (privateKey !== undefined) refuse('login uses no private key');
      if (clientSecret !== undefined && clientId === undefined)
        refuse('a clientSecret needs its clientId');
      return;
    }
    if (clientId === undefined) refuse('give clientId, or login: true');
    if ((clientSecret === undefined) === (privateKey === undefined))
      refuse('give either clientSecret or privateKey');
    for (const field of ['redirectUrl', 'clientMetadataUrl'] as const)
      if (rest[field] !== undefined) refuse(`${field} is for login: true`);
  });

/** How an executor gets a token of an MCP server. */
export type McpOauth = z.infer<typeof mcpOauth>;

/** Fields of whatever names a server. */
export const connection = {
  command: z.array(z.string()).min(1).optional().describe('stdio: program and arguments'),
  url: z.string().optional().describe('streamable HTTP: address, may contain ${env:NAME}'),
  headers,
  env: z
    .record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), z.string())
    .optional()
    .describe('of the program; may contain ${env:NAME}; it has no other variable but PATH'),
  cwd: z.string().min(1).optional().describe('working folder of the program'),
  oauth: mcpOauth.optional().describe('client credentials, or what a person signs in for'),
  sessionful: z
    .boolean()
    .optional()
    .describe('the server remembers between calls: each session has a connection of its own'),
};

/** Whatever names a server says either a program or an address, and of each what belongs to it. */
export function connectionProblems({
  command,
  url,
  env,
  cwd,
  oauth,
}: {
  readonly [Field in keyof typeof connection]?: unknown;
}): string[] {
  return [
    ...(oauth !== undefined && url === undefined
      ? ['oauth is of a server over HTTP: give url']
      : []),
    ...(command === undefined && (env !== undefined || cwd !== undefined)
      ? ['env and cwd are of a program: give command']
      : []),
    ...((command === undefined) === (url === undefined)
      ? ['give either command (stdio) or url (streamable HTTP)']
      : []),
  ];
}

export const mcpRunSchema = z
  .object({
    kind: z.literal('mcp'),
    tool: z.string().optional().describe('the name at the server, when it differs'),
    ...connection,
  })
  .strict()
  .superRefine((spec, context) => {
    for (const message of connectionProblems(spec)) context.addIssue({ code: 'custom', message });
  });
export type McpRun = z.infer<typeof mcpRunSchema>;
