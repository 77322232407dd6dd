/** Where agents, tools, models and tenants are written down, and what has been made of it. */
import type { Catalog, SpecProblem } from '../core/session/specs.ts';

/** A text, or why it cannot be read. */
export type SpecText = string | { readonly unreadable: string };

/** Texts of specs by the name of what holds them: a folder, the labelled ConfigMaps of a namespace. */
export interface SpecTexts {
  /** All of them now. Waits until they are known; @throws Unavailable when they cannot be */
  read(): Promise<ReadonlyMap<string, SpecText>>;
  /** Tells of every change from then on, and after its own gaps as well. */
  follow(onChange: () => void): { stop(): void };
  /** Tell whoever wrote a text what is wrong with it. */
  refuse?(name: string, problems: readonly SpecProblem[]): Promise<void>;
}

export interface LoadedSpecs {
  readonly catalog: Catalog;
  readonly problems: readonly SpecProblem[];
  /** Names that stand in texts which are broken now: what they define is as it was before. */
  readonly lastGood?: ReadonlySet<string>;
  /** What texts that are broken, and of which no good one is known, may define. */
  readonly unsure?: {
    readonly names: ReadonlySet<string>;
    /** One of them cannot be read at all. */
    readonly isAny: boolean;
  };
}

export interface Specs {
  load(): Promise<LoadedSpecs>;
  /**
   * @param onChange   is given the whole again; what was refused stays as it was before. When it fails it is called again
   * @param onTrouble  told why a change cannot be taken up now, when the cause changes
   */
  follow(
    onChange: (loaded: LoadedSpecs) => Promise<void>,
    onTrouble?: (cause: string) => void,
  ): { stop(): void };
}
