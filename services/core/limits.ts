/** Every limit of the system, each with its unit and its reason. */
export const limits = {
  shardsDefault: 16, // four times the most runtimes most people will want; fixed at install
  leaseMs: 2_000, // a dead owner's shards move after this; three renewals fit into it
  leaseRenewMs: 600, // two failed renewals still leave time to drain
  heartbeatMs: 500, // how often a runtime says that it lives and looks at who else does

  nestingMax: 200, // levels of JSON: what walks a value calls itself for each, and people write ten
  taskBytesMax: 256 * 1024, // a task is an order, not a file
  batchMessagesMax: 128, // envelopes in one publish; beyond it latency suffers more than CPU gains
  batchBytesMax: 512 * 1024, // half of the default max_payload of NATS
  eventsWaitMs: 25, // steps are told together: nobody acts on one, and each message costs the broker a write
  shardBacklogMax: 1_024, // envelopes read and not yet committed, per shard; beyond it reading pauses

  idleMs: 30_000, // an actor that heard nothing for so long is passivated
  mailBufferBytes: 256 * 1024, // mail kept per actor for its next baseline; beyond it a baseline is due
  mailBufferMessages: 400, // the same by count
  mailPackLength: 4_096, // characters of it that are kept as they are where a shard has many sessions in memory; what is older is compressed
  mailPlainSessions: 32, // so many are few: their mail costs CPU to compress and little memory to keep
  mailPlainLength: 32_768, // characters of it that are kept as they are then: 1 Mi of them a shard at the most
  trimMs: 2_000, // a round of trimming; what was needed a round ago is kept, and Redis may lose its last second
  clockDifferenceMs: 5_000, // between a machine and the broker: beyond it the process is not ready
  newerRetryMs: 5_000, // a shard that a newer release wrote to is looked at again after this
  stepTries: 5, // a session that crashes its step so often is parked
  machineStepMs: 500, // of a user's own machine: two tries are over before the shard's lease is
  deferredMax: 64, // messages that a paused session keeps for later
  deferredBytesMax: 2 * 1024 * 1024, // of the tasks among them: they stand in the record
  parkedMax: 256, // the same while its definition is missing: an operator's mistake, and soon mended
  queueMax: 32, // tasks that a busy keyed session keeps waiting

  mailSilenceMs: 3_000, // a host that the broker has not answered for so long lets its shards go, if there are others
  answerBytesMax: 256_000, // of a session, in its record, its event and its parent's mail: each is one message of the broker
  contextBytesMax: 512 * 1024, // of a user's own machine: with its mail it is one baseline, one message of the broker
  bundleBytesMax: 900_000, // of an agent with everything it names: one message of the broker
  machineBytesMax: 512 * 1024, // of a user's own machine with all that it imports: one message of the broker
  emittedBytesMax: 64 * 1024, // that a machine emits in one step: they leave in its event
  loggedLengthMax: 16_000, // characters that a machine logs in one step: one line of our log
  cutEndLength: 2_000, // characters that are left of an answer that no message could carry
  conversationBytesMax: 400_000, // of what is shown of a conversation at once: with its record it is one message of the broker
  toolOutputBytesMax: 256_000, // about 64k tokens: more would crowd out the conversation
  toolTimeoutMs: 60_000, // default of a tool that names none
  scratchIdleMs: 10 * 60_000, // a scratch folder is kept so long for the next program of its session
  replyBytesMax: 512_000, // of a model's answer: half of a message of the broker
  modelPatienceMs: 5 * 60_000, // a provider that restarts or is full is waited for so long
  fallbackPatienceMs: 20_000, // the same where another Model can be asked instead
  modelTimeoutMs: 120_000, // default of a model that names none
  deadlineSlackMs: 30_000, // a session waits this much longer than the performer's own time-outs
  approvalExpiryMs: 24 * 3_600_000, // an approval nobody answers is a rejection after a day
  effectAckWaitMs: 3_000, // after this silence a call is offered again; whoever gets it asks the one before
  effectHeartbeatMs: 1_000, // three fit into the ack wait
  lostMax: 3, // executors that died with an effect in hand: it is not given to another
  lostUnbegunMax: 9, // executors that died before any began it: another effect may have killed them
  queueLookMs: 2_000, // how often runtimes look whether the queue still holds what they gave it
  queueWaitMs: 250, // how long a tenant's effects may stand in a pool's queue: who comes new waits no longer for them
  performMax: 512, // effects in flight per executor
  modelCallsMax: 4_096, // per gateway: they wait for providers, and their prompts are bounded besides

  recentSessions: 200, // ended sessions per shard that `ps --all` shows without reading the archive
  startsMaxAgeMs: 30 * 86_400_000, // how long "never twice" is remembered
  archiveMaxAgeMs: 30 * 86_400_000, // how long an ended session can be verified, and its task id is known

  workspaceBytesMax: 32 * 1024 * 1024, // a workspace, compressed: it travels through the broker after each call that may have changed it
  workspaceChunkBytes: 512 * 1024, // of it in one message, below the broker's max_payload
  workspaceMaxAgeMs: 30 * 86_400_000, // a workspace that was not touched for so long is forgotten
  sandboxWaitMs: 30_000, // how long a call waits for a free sandbox
  sandboxIdleMs: 10_000, // how long a session's sandbox is kept for its next call
  sandboxOrphanMs: 60_000, // a claimed sandbox that hears nothing for so long has lost its executor
} as const;
