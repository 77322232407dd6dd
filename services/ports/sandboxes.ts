import type { Checkpoint } from '../core/tools/workspace-head.ts';

/** One that was claimed: where it is, and the token that only its holder has. */
export interface Sandbox {
  readonly name: string;
  readonly url: string;
  readonly token: string;
}

/**
 * Sandboxes: each is given to one session, once, and thrown away after.
 *
 * Guarantee: no two claims ever return the same one, whoever asks from wherever.
 * Errors:    Unavailable with code SANDBOX_NONE_FREE when none came free in time.
 */
export interface Sandboxes {
  claim(
    holder: { readonly tenant: string; readonly session: string },
    signal: AbortSignal,
  ): Promise<Sandbox>;
  /** Of no more use to anyone. Does not wait, and does not fail. */
  discard(sandbox: Sandbox): void;
  stop(): Promise<void>;
}

/**
 * Files of a session, as one compressed archive, from its last call to its next.
 *
 * Guarantee: `latest` gives what the last call before this effect has saved, so an effect that runs again begins where it began the first
 *            time. `save` replaces only what `latest` gave: whoever was overtaken meanwhile is refused.
 * Errors:    Unavailable, with WORKSPACE_CHANGED for one that was overtaken before it saved; Refused with WORKSPACE_OVERTAKEN from `latest`
 *            and `save` for one that had saved when others went on from there: it must not run again.
 */
export interface Workspaces {
  latest(tenant: string, session: string, effect: string): Promise<Checkpoint | undefined>;
  load(tenant: string, session: string, checkpoint: Checkpoint): Promise<Uint8Array>;
  save(
    tenant: string,
    session: string,
    effect: string,
    before: Checkpoint | undefined,
    archive: Uint8Array,
  ): Promise<Checkpoint>;
}
