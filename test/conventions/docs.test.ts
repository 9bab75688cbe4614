// The documentation against the repository: its links lead somewhere, its commands exist.
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

const root = path.dirname(path.dirname(import.meta.dirname));
const documents = globSync('**/*.md', { cwd: root, exclude: ['node_modules/**', 'dist/**'] });
const read = (file: string): string => readFileSync(path.join(root, file), 'utf8');

/** The link's target without its title, for example `../README.md#limits`. */
const targets = (text: string): string[] =>
  [...withoutCode(text).matchAll(/\]\(([^()\s]+)\)/g)].map(([, target]) => target!);

/** What stands in a code block is an example, not a link or a heading. */
const withoutCode = (text: string): string => text.replace(/^```[\s\S]*?^```/gm, '');

/** Headings as the anchors that Git hosts make of them. */
const anchors = (text: string): string[] =>
  [...withoutCode(text).matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  );

test('Every relative link leads to a file, and to a heading where it names one', () => {
  const dead = documents.flatMap((document) =>
    targets(read(document))
      .filter((target) => !/^[a-z]+:/.test(target))
      .filter((target) => !leadsSomewhere(document, target))
      .map((target) => `${document}: ${target}`),
  );
  assert.deepEqual(dead, []);
});

function leadsSomewhere(document: string, target: string): boolean {
  const [file = '', anchor] = target.split('#');
  const linked = file === '' ? document : path.join(path.dirname(document), file);
  if (!existsSync(path.join(root, linked))) return false;
  return anchor === undefined || anchors(read(linked)).includes(anchor);
}

test('Every npm script that is named exists', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
  const named = documents.flatMap((document) =>
    [...read(document).matchAll(/\bnpm run (?:--silent )?([\w:-]+)/g)].map(([, script]) => ({
      document,
      script: script!,
    })),
  );
  assert.ok(named.length > 0, 'the documentation names scripts');
  assert.deepEqual(
    named.filter(({ script }) => !(script in scripts)),
    [],
  );
});

test('Every page of docs/ can be reached from the README', () => {
  const seen = new Set<string>();
  const visit = (document: string): void => {
    if (seen.has(document)) return;
    seen.add(document);
    for (const target of targets(read(document))) {
      const linked = path.join(path.dirname(document), target.split('#')[0]!);
      if (documents.includes(linked)) visit(linked);
    }
  };
  visit('README.md');
  // The README names the folder of decisions as a whole.
  const pages = documents.filter((document) => /^docs\/(?!decisions\/)/.test(document));
  assert.deepEqual(
    pages.filter((page) => !seen.has(page)),
    [],
  );
});
