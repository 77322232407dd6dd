/**
 * Which tools the MCP servers of documents have, as agents get them.
 *
 * Owns     what is in force for each server, what it says now, and when it is asked again.
 * Asks     one executor of its pool what it can do; the archive keeps what counts.
 *
 * G1  A listing that is in force is stored before any agent is made of it, under the hash of its
 *     document, and never changes: what is accepted later has the next number.
 * G2  A server that is away, or says something else, takes nothing away. What has changed counts when
 *     its document says so, or a person accepts what was looked at.
 */
import { messageOf, Refused } from '../core/errors.ts';
import { changeOf, changeText, digestOf, type Listing } from '../core/tools/mcp-listing.ts';
import {
  type McpServerSpec,
  runOf,
  schemaProblem,
  serverHashOf,
} from '../core/tools/mcp-server.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { KnownListing, Listings, ServerQuestion, ServerQuestions } from '../ports/listings.ts';
import type { Telemetry } from '../ports/telemetry.ts';

const lookMs = 2_000; // at the archive: another runtime may have stored or accepted
const askAgainMs = 600_000; // of a server that answered: its tools may change
const askSoonMs = 60_000; // of one that did not, at the most
const unheardMs = 2_000; // where there is no executor yet
const sliceMs = 10;
const listingMsMin = 60_000; // a program may have to be fetched before it starts

/** A server, and what is known of it. */
export interface ServerState {
  readonly name: string;
  readonly spec: McpServerSpec;
  readonly hash: string;
  /** In force, with its number; undefined while none is known. */
  readonly inForce: { readonly listing: Listing; readonly number: number } | undefined;
  /** What it says now, where that is something else and waits to be accepted. */
  readonly held: Listing | undefined;
  /** Why it could not be asked last, if so. */
  readonly trouble: string | undefined;
}

interface Server extends ServerState {
  spec: McpServerSpec;
  inForce: { readonly listing: Listing; readonly number: number } | undefined;
  held: Listing | undefined;
  trouble: string | undefined;
  /** Nobody of its pool was there. */
  isUnheard: boolean;
  failures: number;
  /** The highest number that is stored, also one that does not parse here. */
  last: number;
  /** By the clock of this process, ms. */
  askAt: number;
  asking: Promise<void> | undefined;
}

export interface ListingPorts {
  readonly archive: Pick<Archive, 'lastListing' | 'putListing'>;
  readonly servers: Omit<ServerQuestions, 'answer'>;
  readonly clock: Clock;
  readonly telemetry: Pick<Telemetry, 'log'>;
}

export class ServerListings implements Listings {
  readonly #ports: ListingPorts;
  readonly #servers = new Map<string, Server>();
  readonly #listeners = new Set<() => void>();
  readonly #looking: { stop(): void };
  #isLooking = false;

  constructor(ports: ListingPorts) {
    this.#ports = ports;
    this.#looking = ports.clock.every(lookMs, () => void this.#look());
    ports.servers.onAnnounced((hash) => void this.#announced(hash));
  }

  async of(name: string, spec: McpServerSpec): Promise<KnownListing> {
    const hash = serverHashOf(name, spec);
    let server = this.#servers.get(hash);
    if (!server) {
      server = {
        name,
        spec,
        hash,
        inForce: undefined,
        held: undefined,
        trouble: undefined,
        isUnheard: false,
        failures: 0,
        last: 0,
        askAt: 0,
        asking: undefined,
      };
      await this.#read(server);
      // Two that looked at the same time: the first stays.
      server = this.#servers.get(hash) ?? server;
      this.#servers.set(hash, server);
    }
    server.spec = spec;
    if (this.#ports.clock.now() >= server.askAt) void this.#ask(server);
    return { listing: server.inForce?.listing, trouble: troubleOf(server) };
  }

  keep(hashes: ReadonlySet<string>): void {
    for (const hash of this.#servers.keys()) if (!hashes.has(hash)) this.#servers.delete(hash);
  }

  follow(onChange: () => void): { stop(): void } {
    this.#listeners.add(onChange);
    return { stop: () => void this.#listeners.delete(onChange) };
  }

  /** All of them, in the order of their names. */
  states(): ServerState[] {
    return [...this.#servers.values()].sort((left, right) => (left.name < right.name ? -1 : 1));
  }

  /** Ask now. @throws Refused (SERVER_UNKNOWN) */
  async ask(name: string): Promise<ServerState> {
    const server = this.#named(name);
    await this.#ask(server);
    return server;
  }

  /**
   * Put in force what the server says now.
   *
   * @param digest  of what was looked at
   * @throws Refused (SERVER_UNKNOWN, NOTHING_HELD, LISTING_CHANGED)
   */
  async accept(name: string, digest: string): Promise<ServerState> {
    const server = this.#named(name);
    const { held } = server;
    if (!held) {
      const why = server.trouble ?? 'it says what is in force';
      throw new Refused('NOTHING_HELD', `McpServer ${name} has no change to accept: ${why}`);
    }
    const changed = new Refused(
      'LISTING_CHANGED',
      `McpServer ${name} says something else now: understudy mcp show ${name}`,
    );
    if (digestOf(held) !== digest) throw changed;
    const isOurs = await this.#put(server, held);
    this.#tell();
    this.#ports.servers.announce(server.hash);
    if (!isOurs) throw changed;
    return server;
  }

  /**
   * Sign a person in.
   *
   * @param callback  where the browser was sent back to; undefined to begin
   * @returns where the person signs in; null when it is done
   * @throws Refused
   */
  async signIn(name: string, callback: string | undefined): Promise<string | null> {
    const server = this.#named(name);
    const answer = await this.#ports.servers.signIn(questionOf(server), callback);
    if (!answer.ok) throw new Refused(answer.failure.code, answer.failure.message);
    if (callback !== undefined) {
      this.#ports.servers.announce(server.hash);
      void this.#ask(server);
    }
    return answer.value.url;
  }

  stop(): void {
    this.#looking.stop();
  }

  /** @throws Refused (SERVER_UNKNOWN) */
  named(name: string): ServerState {
    return this.#named(name);
  }

  #named(name: string): Server {
    const found = [...this.#servers.values()].findLast((server) => server.name === name);
    if (found) return found;
    const names = this.states().map((server) => server.name);
    throw new Refused(
      'SERVER_UNKNOWN',
      `there is no McpServer ${name}; there are: ${names.join(', ') || 'none'}`,
    );
  }

  /** What other runtimes stored, and who is to be asked again. */
  async #look(): Promise<void> {
    if (this.#isLooking) return;
    this.#isLooking = true;
    for (const server of [...this.#servers.values()]) {
      const before = server.inForce?.number;
      // A broker that is away is looked at again soon.
      await this.#read(server).catch(() => undefined);
      if (server.inForce?.number !== before) this.#tell();
      if (this.#ports.clock.now() >= server.askAt) void this.#ask(server);
    }
    this.#isLooking = false;
  }

  /** @throws Unavailable where it cannot be read now */
  async #read(server: Server): Promise<void> {
    const last = await this.#ports.archive.lastListing(server.hash);
    if (!last || last.number <= server.last) return;
    const { number, listing } = last;
    if (listing) {
      await looked(listing);
      server.inForce = { listing, number };
      if (server.held && digestOf(server.held) === digestOf(listing)) server.held = undefined;
    }
    // One that does not parse here counts for nobody: the next has the next number.
    server.last = number;
  }

  /** Another runtime has heard something else, or a person was there: so are we to hear it. */
  async #announced(hash: string): Promise<void> {
    const server = this.#servers.get(hash);
    if (!server) return;
    const before = server.inForce?.number;
    await this.#read(server).catch(() => undefined);
    if (server.inForce?.number !== before) this.#tell();
    await this.#ask(server, true);
  }

  /** @param isQuiet  others know of it */
  #ask(server: Server, isQuiet = false): Promise<void> {
    server.asking ??= this.#asked(server, isQuiet)
      .catch((error: unknown) => {
        server.trouble = messageOf(error);
      })
      .finally(() => {
        server.asking = undefined;
      });
    return server.asking;
  }

  async #asked(server: Server, isQuiet: boolean): Promise<void> {
    const { servers, clock, telemetry } = this.#ports;
    const { name, spec } = server;
    const before = troubleOf(server);
    server.askAt = Number.POSITIVE_INFINITY;
    try {
      const answer = await servers.list(questionOf(server));
      server.trouble = answer.ok ? undefined : answer.failure.message;
      server.isUnheard = !answer.ok && answer.failure.code === 'MCP_UNHEARD';
      server.failures = answer.ok ? 0 : server.failures + 1;
      if (answer.ok) await this.#heard(server, answer.value);
    } finally {
      server.askAt = clock.now() + waitMsOf(server) * (0.75 + 0.5 * Math.random());
    }
    if (troubleOf(server) === before) return;
    if (!isQuiet) servers.announce(server.hash);
    if (server.trouble !== undefined)
      telemetry.log('warn', 'an MCP server does not say what it can do', {
        server: name,
        pool: spec.pool,
        cause: server.trouble,
      });
    this.#tell();
  }

  async #heard(server: Server, listing: Listing): Promise<void> {
    const { inForce, spec } = server;
    server.held = undefined;
    if (inForce && digestOf(inForce.listing) === digestOf(listing)) return;
    await looked(listing);
    if (inForce && spec.changes === 'hold') server.held = listing;
    else await this.#put(server, listing);
  }

  /** G1. @returns whether it is in force now: another may have stored something else */
  async #put(server: Server, listing: Listing): Promise<boolean> {
    const { archive, telemetry } = this.#ports;
    await archive.putListing(server.hash, server.last + 1, listing);
    // Whoever stored this number: what stands there counts.
    await this.#read(server);
    const { inForce } = server;
    telemetry.log('info', 'tools of an MCP server are in force', {
      server: server.name,
      number: inForce?.number,
      tools: inForce?.listing.tools.length,
    });
    return inForce !== undefined && digestOf(inForce.listing) === digestOf(listing);
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}

/** A few schemas at a time: whoever has shards must renew their leases meanwhile. */
async function looked({ tools }: Listing): Promise<void> {
  let from = performance.now();
  for (const tool of tools) {
    schemaProblem(tool);
    if (performance.now() - from < sliceMs) continue;
    await new Promise((resolve) => setImmediate(resolve));
    from = performance.now();
  }
}

const questionOf = ({ name, spec }: ServerState): ServerQuestion => ({
  server: name,
  pool: spec.pool,
  run: runOf(spec),
  timeoutMs: Math.max(spec.timeoutMs, listingMsMin),
});

/** When it is asked again, ms: asking nobody costs nothing, a server that fails is left in peace. */
function waitMsOf({ isUnheard, failures }: Server): number {
  if (isUnheard) return unheardMs;
  return failures === 0 ? askAgainMs : Math.min(askSoonMs, 2_000 * 2 ** failures);
}

/** What a person should know of a server, if anything. */
export function troubleOf({ name, spec, inForce, held, trouble }: ServerState): string | undefined {
  if (!inForce)
    return trouble
      ? `its tools are not known: ${trouble.replace('<McpServer>', name)}`
      : `its tools are not known yet: an executor of pool ${spec.pool} is asked`;
  if (held) {
    const change = changeText(changeOf(inForce.listing, held));
    return `its tools have changed (${change}); they stay as they were until: understudy mcp accept ${name}`;
  }
  return (
    trouble &&
    `it cannot be asked now, and its tools stay as they were: ${trouble.replace('<McpServer>', name)}`
  );
}
