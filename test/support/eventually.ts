/** Wait for a condition, never for a time. */
export async function eventually<Value>(
  look: () => Value | Promise<Value>,
  what = 'the condition',
  withinMs = 45_000,
): Promise<NonNullable<Value>> {
  const deadline = Date.now() + withinMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await look();
      if (value) return value;
      last = value;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline)
      throw new Error(
        `${what} did not come true within ${withinMs} ms; last seen: ${last instanceof Error ? last.message : JSON.stringify(last)}`,
      );
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
