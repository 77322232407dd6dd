/** Which events are ends. Imports nothing: the console's page uses it too. */

/** The id of the end of a task: that of the step that made it, and which of its ends. */
export const endIdOf = (stepId: string, index: number): string => `${stepId}-end${index}`;

/** A task has ended (its session may go on). Names of agents stand in ids as well, so only how an id ends tells. */
export const isEndEvent = ({ id }: { readonly id: string }): boolean => /-\d+-end\d+$/.test(id);
