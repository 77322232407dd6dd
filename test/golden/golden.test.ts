/**
 * Sessions of earlier versions fold to what they folded to then, for ever. A change of what a step
 * decides asks for `bundle.behaviour` (specs.ts), so that these need no change.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { unpack } from '../../services/adapters/nats/archive.ts';
import { parseRecord } from '../../services/core/session/migrate.ts';
import { recordSchemaVersion, stateHashOf } from '../../services/core/session/record.ts';
import { type Bundle, revisionOf } from '../../services/core/session/specs.ts';
import { foldStory, type Story } from './story.ts';

const folders = readdirSync(import.meta.dirname).filter((name) => name.startsWith('behaviour-'));
const read = <Content>(folder: string, file: string): Content =>
  JSON.parse(readFileSync(join(import.meta.dirname, folder, file), 'utf8')) as Content;

describe.each(folders)('%s', (folder) => {
  const stories = read<Story[]>(folder, 'stories.json');
  const walks = read<Story[]>(folder, 'walks.json');
  const baselines = read<{ story: string; body: string }[]>(folder, 'baselines.json');

  test('has stories, walks and baselines', () => {
    expect(stories.length).toBeGreaterThan(30);
    expect(walks.length).toBeGreaterThanOrEqual(40);
    expect(baselines.length).toBe(stories.length);
  });

  test.each([...stories, ...walks].map((story) => [story.name, story] as const))(
    'the session "%s" folds to the state it had',
    async (_name, { bundle, revision, mail, folds, record }) => {
      const folded = await foldStory(bundle, revision, mail);

      expect(folded.folds).toEqual(folds);
      if (record) {
        const stored = parseRecord(JSON.stringify(record));
        expect(JSON.parse(JSON.stringify(folded.record))).toEqual(
          JSON.parse(JSON.stringify(stored)),
        );
        expect(stateHashOf(stored)).toBe(folds.hash);
      }
    },
  );

  test.each(baselines.map((one) => [one.story, one.body] as const))(
    'the baseline of "%s" holds its record and its mail',
    async (name, body) => {
      const { folds, mail } = stories.find((story) => story.name === name)!;
      const baseline = unpack(Buffer.from(body, 'base64'));

      expect(stateHashOf(baseline.record)).toBe(folds.hash);
      expect(baseline.mail.at(-1)?.position.sequence).toBe(mail.at(-1)?.sequence);
    },
  );

  test('bundles keep their revision', () => {
    for (const { bundle, revision } of stories) {
      expect(revisionOf(bundle as Bundle)).toBe(revision);
    }
  });
});

test('every schema of a record that was ever stored is read', () => {
  for (let schema = 1; schema <= recordSchemaVersion; schema += 1) {
    const record =
      schema === 1 ? undefined : read<Story[]>('behaviour-1', 'stories.json')[0]!.record;
    const text =
      record === undefined
        ? readFileSync(join(import.meta.dirname, 'records/schema-1.json'), 'utf8')
        : JSON.stringify(record);
    expect(parseRecord(text).schema).toBe(recordSchemaVersion);
  }
});
