import { expect, test } from 'vitest';
import { flag, oneOf, optionsFrom, text, usageOf, whole, wholes } from './options.ts';

const options = {
  seconds: whole(5, 'of a row'),
  'in-flight': wholes([1, 16], 'sessions'),
  strict: flag('synced'),
  json: text('', 'a file'),
  class: oneOf('pure', ['pure', 'keyed'], 'of the tool'),
};

test('what is not said is as it comes, what is said is read', () => {
  expect(optionsFrom([], options)).toEqual({
    seconds: 5,
    'in-flight': [1, 16],
    strict: false,
    json: '',
    class: 'pure',
  });
  expect(
    optionsFrom(['--seconds', '3', '--in-flight', '64,0', '--strict', '--json=out.json'], options),
  ).toEqual({
    seconds: 3,
    'in-flight': [64],
    strict: true,
    json: 'out.json',
    class: 'pure',
  });
});

test.each([
  [['--second', '3'], "Unknown option '--second'"],
  [['--seconds', 'x'], '--seconds x: a whole number from 1 on is wanted'],
  [['--in-flight', '1,,2'], '--in-flight 1,,2: a whole number from 0 on is wanted'],
  [['--seconds', '0'], '--seconds 0: a whole number from 1 on is wanted'],
  [['--class', 'foo'], '--class foo: one of pure, keyed is wanted'],
  [['--seconds'], 'argument missing'],
  [['3'], 'Unexpected argument'],
])('%j is refused before anything is measured', (args, why) => {
  expect(() => optionsFrom(args, options)).toThrow(why);
});

test('the usage names all there is, and what it is when nothing is said', () => {
  expect(usageOf('bench', options)).toContain('--in-flight    sessions (1,16)');
});
