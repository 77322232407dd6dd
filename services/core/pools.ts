/** Names of pools: who takes an effect from its queue. */

/** Gateways: model calls. No tool may name it. */
export const modelPool = 'models';
/** The executors that every installation has. */
export const toolPool = 'tools';
