import type { Definition } from '../core/session/draft.ts';

/** A user's own machine as one ES module, `xstate` outside: all that its sessions run, for ever. */
export interface MachineModule {
  /** SHA-256 of the text, hex. */
  readonly hash: string;
  readonly text: string;
}

/** What a session's machine is to those who do not drive it. */
export type Machine = NonNullable<Definition['machine']>;

/**
 * Users' own machines, from their files to what a session runs.
 *
 * Guarantee: the same files make the same module. What `load` is given runs as it was made, wherever
 *            its files lie now, and with the XState of this release.
 * Errors:    Refused (MACHINE_UNREADABLE) from `bundle`, for what cannot be made one module (with
 *            `files`, the paths of those that are wrong) or is too large; Refused (MACHINE_CHANGED) from `load` for a text that is not that of its hash,
 *            (MACHINE_MISSING) where it exports no machine, (MACHINE_UNREADABLE) where it throws.
 */
export interface Machines {
  /**
   * @param file  path of its module, TypeScript or JavaScript
   * @returns with `files`, the paths of all that stands in it
   */
  bundle(file: string): Promise<MachineModule & { readonly files: readonly string[] }>;
  /** Runs the module: never beside secrets that it must not have. */
  load(module: MachineModule): Promise<Machine>;
}
