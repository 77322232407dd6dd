import type { Outcome } from '../core/tools/job.ts';
import type { Listing } from '../core/tools/mcp-listing.ts';
import type { McpRun } from '../core/tools/mcp-run.ts';
import type { McpServerSpec } from '../core/tools/mcp-server.ts';

/** What is known of a server's tools. */
export interface KnownListing {
  /** That which is in force; undefined while none is known. */
  readonly listing: Listing | undefined;
  /** Why there is none, or what is worth a look. */
  readonly trouble: string | undefined;
}

/**
 * What the MCP servers of documents can do, as their executors say.
 *
 * Guarantee: a listing that is in force stays so while its server is away, or says something else,
 *            until that is accepted.
 * Errors:    Unavailable where what is stored cannot be read now.
 */
export interface Listings {
  /** Never waits for a server: what is not known yet is asked for, and `follow` tells of it. */
  of(name: string, spec: McpServerSpec): Promise<KnownListing>;
  /** Servers that documents name now, by the hash of theirs: others are not asked any more. */
  keep(hashes: ReadonlySet<string>): void;
  follow(onChange: () => void): { stop(): void };
}

/** A server, as executors of its pool are asked about it. */
export interface ServerQuestion {
  readonly server: string;
  readonly pool: string;
  readonly run: McpRun;
  /** How long the server may take, ms. */
  readonly timeoutMs: number;
}

/** Where a person signs in; null for one who has. */
export interface SignInState {
  readonly url: string | null;
}

export interface ServerAnswers {
  list(question: Omit<ServerQuestion, 'pool'>, signal: AbortSignal): Promise<Outcome<Listing>>;
  signIn(
    question: Omit<ServerQuestion, 'pool'>,
    callback: string | undefined,
  ): Promise<Outcome<SignInState>>;
}

/**
 * One executor of a server's pool is asked about it: it alone has the command, the secrets and the
 * network.
 *
 * Guarantee: none; where nobody is at it for some seconds that is the failure (`MCP_UNHEARD`).
 */
export interface ServerQuestions {
  list(question: ServerQuestion): Promise<Outcome<Listing>>;
  /** @param callback  where the person was sent back to; undefined to begin */
  signIn(question: ServerQuestion, callback: string | undefined): Promise<Outcome<SignInState>>;
  /** Hint to other runtimes that something has changed with a server. Best effort, at once. */
  announce(hash: string): void;
  /** @param listener  hears the hash */
  onAnnounced(listener: (hash: string) => void): void;
  /** @param pool  whose tools it performs: of others it is not asked */
  answer(pool: string, answers: ServerAnswers): void;
}
