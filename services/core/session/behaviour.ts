/**
 * What a step decides, by version. A session decides for ever as the code did that began it: its
 * bundle says which behaviour that was, and a fold months later comes to the same state.
 *
 * | behaviour | what a step does since |
 * |---|---|
 * | 1 | everything until version 0.1.0; bundles that name none |
 * | 2 | listed below |
 * | 3 | listed below |
 * | 4 | listed below |
 * | 5 | listed below |
 *
 * 2: parallel children share what is left, and calls of a turn are counted first; a try that may
 * have been paid for costs its reservation; users' own machines have budgets; kept messages are
 * bounded by count and bytes, and results are not counted; a child that is halted before its task
 * begins halted; a park keeps a pause; decisions of people stand in the record; deadlines of
 * queryable calls leave time to ask.
 *
 * 3: what gateways tell of a failed call counts, also where the session pauses for it; delegations
 * that wait for a person share what is left; a pure call that nobody made in time has failed, and is
 * not in doubt; every task that was answered is known, also one that never began, and an end leaves
 * no queue; a question of a user's own machine is kept whole, and what the machine holds goes on as
 * the JSON that is stored of it; an answer that was filtered, refused or cut is none,
 * and no call of it runs; a summary is text, whole; numbers in arguments are exact; a cancelled delay
 * of a user's machine is cancelled.
 *
 * 4: users' own machines are equal to a plain actor or refused by name: what cannot be performed is
 * found before anything runs; what a machine holds equals its JSON form; what throws ends it as
 * XState does; the error of an invoke is an Error; timers are told apart and keep their order;
 * children, emitted events, log lines, `self` and events to itself are as in plain XState. A
 * conversation is summarised by what will be sent and where a model refuses its length, and keeps its
 * last turns and the task's words; calls of models have deadlines that leave time for patience.
 *
 * 5: of users' own machines: an invoke that a machine stops itself stays stopped; two children of one
 * id at a time are refused by name, however they came about; an invoke with a systemId may be left
 * within the step that began it; a name under which an event is sent to a child no longer means the
 * timer of before.
 *
 * A change of what a step decides gets the next number, except where the step crashed before.
 */
/** Stamped into every bundle that a catalog makes now. */
export const currentBehaviour = 5;

export const behaviourOf = (bundle: { readonly behaviour?: number | undefined }): number =>
  bundle.behaviour ?? 1;
