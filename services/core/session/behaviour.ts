/**
 * What a step decides, by version. A session decides for ever as the code did that began it: its
 * bundle says which behaviour that was, and a fold months later comes to the same state.
 *
 * | behaviour | what a step does since |
 * |---|---|
 * | 1 | everything until version 0.1.0; bundles that name none |
 * | 2 | see CHANGELOG, "What a step decides" |
 *
 * A change of what a step decides gets the next number, except where the step crashed before.
 */
/** Stamped into every bundle that a catalog makes now. */
export const currentBehaviour = 2;

export const behaviourOf = (bundle: { readonly behaviour?: number | undefined }): number =>
  bundle.behaviour ?? 1;
