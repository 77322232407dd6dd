import type { Credentials } from '../../ports/credentials.ts';

/** In this process, and gone with it: nothing is sealed. */
export function memoryCredentials(): Credentials {
  const kept = new Map<string, { value: unknown; version: number }>();
  return {
    read: async (key) => structuredClone(kept.get(key)),
    async write(key, value, version) {
      if ((kept.get(key)?.version ?? 0) !== version) return false;
      kept.set(key, { value: structuredClone(value), version: version + 1 });
      return true;
    },
  };
}
