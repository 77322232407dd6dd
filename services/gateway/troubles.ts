/** What `doctor` is told of Models: what is not there for them here, and who wants no calls now. */
import type { ModelSpec } from '../core/session/model-spec.ts';
import type { ToolTrouble } from '../core/tools/environment-check.ts';
import type { Clock } from '../ports/clock.ts';
import type { Doors } from '../ports/doors.ts';
import type { Model } from '../ports/performers.ts';

type Named = ModelSpec & { readonly name: string };

export interface TroublePorts {
  readonly model: Pick<Model, 'whyNot' | 'doorOf'>;
  readonly doors: Pick<Doors, 'look'>;
  readonly clock: Pick<Clock, 'now'>;
}

export async function modelTroubles(
  models: readonly Named[],
  { model, doors, clock }: TroublePorts,
): Promise<ToolTrouble[]> {
  const found = await Promise.all(
    models.map(async (spec): Promise<ToolTrouble[]> => {
      const about = { kind: 'model' as const, tool: spec.name.slice(0, 64), field: '' };
      const why = model.whyNot?.(spec);
      if (why !== undefined) return [{ ...about, message: why.slice(0, 200) }];
      const shut = await doors.look(model.doorOf?.(spec) ?? spec.name).catch(() => undefined);
      const waitMs = (shut?.openAt ?? 0) - clock.now();
      if (!shut || waitMs <= 0) return [];
      const forSeconds = Math.ceil((clock.now() - shut.since) / 1_000);
      const message = `wants no calls for ${Math.ceil(waitMs / 1_000)} s, and has not since ${forSeconds} s: ${shut.code}: ${shut.message}`;
      return [{ ...about, message: message.slice(0, 200), isNote: true }];
    }),
  );
  return found.flat();
}
