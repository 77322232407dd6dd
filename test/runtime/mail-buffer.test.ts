/** What a session heard since its last baseline: compressed or not, it is all there, in order. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { limits } from '../../services/core/limits.ts';
import { MailBuffer, plainMaxOf } from '../../services/runtime/mail-buffer.ts';

const message = (version: number, padding = '') =>
  JSON.stringify({
    message: { kind: 'toolReturned', effect: `desk-0123456789abcdef_${version}_0`, padding },
    at: version,
    position: { sequence: version * 3 },
  });

test('it holds what a plain list would hold, whatever is put in and taken out', () => {
  const action = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        push: fc.oneof(
          fc.constant(''),
          fc.string({ maxLength: 6_000 }),
          fc.string({ unit: 'binary', maxLength: 300 }),
        ),
        plainMax: fc.constantFrom(0, 4_096, 32_768),
      }),
    },
    { weight: 1, arbitrary: fc.record({ forgetBack: fc.nat(12) }) },
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
      const buffer = new MailBuffer();
      let plain: { version: number; sequence: number; text: string }[] = [];
      let version = 0;
      for (const act of actions) {
        if ('push' in act) {
          version += 1;
          const text = message(version, act.push);
          buffer.push(version, version * 3, text, act.plainMax);
          plain.push({ version, sequence: version * 3, text });
        } else {
          const upTo = version - act.forgetBack;
          expect(buffer.upTo(upTo)).toEqual(
            plain.filter((kept) => kept.version <= upTo).map(({ text }) => text),
          );
          plain = plain.filter((kept) => kept.version > upTo);
          expect(buffer.forget(upTo)).toBe(plain[0]?.sequence);
        }
        expect([buffer.count, buffer.length]).toEqual([
          plain.length,
          plain.reduce((sum, { text }) => sum + text.length, 0),
        ]);
      }
      expect(buffer.upTo(version)).toEqual(plain.map(({ text }) => text));
    }),
  );
});

test('mail that repeats itself weighs little: a session that waits holds no more than a few KiB of it', () => {
  const buffer = new MailBuffer();
  let most = 0;
  for (let version = 1; version <= 300; version += 1) {
    buffer.push(
      version,
      version,
      message(version, 'the same words again and again'.repeat(8)),
      limits.mailPackLength,
    );
    most = Math.max(most, buffer.weight);
  }
  expect(buffer.length).toBeGreaterThan(90_000);
  expect(most).toBeLessThan(20_000);
});

test('mail is kept as it is up to the length given, and compressed beyond it', () => {
  const buffer = new MailBuffer();
  for (let version = 1; buffer.length < limits.mailPlainLength - 1_000; version += 1) {
    buffer.push(
      version,
      version,
      message(version, 'the same words again and again'.repeat(8)),
      limits.mailPlainLength,
    );
    expect(buffer.weight).toBe(buffer.length);
  }
  buffer.push(1_000, 1_000, message(1_000, 'x'.repeat(1_000)), limits.mailPlainLength);
  expect(buffer.weight).toBeLessThan(buffer.length / 4);
});

test('with more than 32 sessions in memory mail is compressed sooner', () => {
  expect([1, 32, 33].map((sessions) => plainMaxOf(sessions))).toEqual([32_768, 32_768, 4_096]);
});
