/**
 * Small maps from ids to values, as they stand in a record: JSON objects that are copied, never changed.
 *
 * No two ids are alike, and an object that is spread and given a new key becomes a kind of its own to the engine: it keeps a hidden class for
 * each id, and every place that reads such objects forgets what it had learnt. Without a prototype they are dictionaries from the start.
 */
export type Keyed<Value> = Readonly<Record<string, Value>>;

function copyOf<Value>(map: Keyed<Value>): Record<string, Value> {
  const copy = Object.create(null) as Record<string, Value>;
  for (const key in map) copy[key] = map[key]!;
  return copy;
}

export function having<Value>(map: Keyed<Value>, key: string, value: Value): Keyed<Value> {
  const copy = copyOf(map);
  copy[key] = value;
  return copy;
}

/** An empty dictionary weighs 184 bytes, and each waiting session would keep some: they share one. */
const none: Keyed<never> = Object.freeze(Object.create(null) as Record<string, never>);

export function without<Value>(map: Keyed<Value>, key: string): Keyed<Value> {
  const copy = copyOf(map);
  delete copy[key];
  return isEmpty(copy) ? none : copy;
}

/** What stands under a name that came from outside: never a name that every object has. */
export const own = <Value>(map: Keyed<Value>, name: string): Value | undefined =>
  Object.hasOwn(map, name) ? map[name] : undefined;

export function isEmpty(map: Keyed<unknown>): boolean {
  for (const _ in map) return false;
  return true;
}
