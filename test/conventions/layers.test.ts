// Proves the import rules of biome.json: imports go downward only, and the workflow sandbox stays a sandbox.
//
// Two things noRestrictedImports cannot express live in scripts/lint/*.grit: exceptions for `import type` (activities'
// types in workflows, pg's outside src/database, kafkajs's in the roots) and `Date.now` as against `new Date(milliseconds)`. And since it
// compares the text of an import, not the file it resolves to, a nested folder may import downwards, the named layers,
// and nothing else above it: `../x.ts` would be another layer in one folder and a neighbour in the next.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

const root = path.dirname(path.dirname(import.meta.dirname));
const biome = path.join(root, 'node_modules', '.bin', 'biome');

const imports = 'lint/style/noRestrictedImports';
const nodeModules = 'lint/correctness/noNodejsModules';
const globals = 'lint/style/noRestrictedGlobals';
const grit = 'plugin';

interface Case {
  file: string;
  source: string;
  refusedBy: string[];
}

/** The cases of one file: what it may say, then what it may not, each with the rules that refuse it. */
const cases = (file: string, allowed: string[], refused: Record<string, string[]>): Case[] => [
  ...allowed.map((source) => ({ file, source, refusedBy: [] })),
  ...Object.entries(refused).map(([source, refusedBy]) => ({ file, source, refusedBy })),
];

const table: Case[] = [
  ...cases(
    'src/workflows/outbox.ts',
    [
      "export { a } from '@temporalio/workflow';",
      "export { a } from '@temporalio/common';",
      "export { a } from '../domain/outbox.ts';",
      "export { a } from './deep/signals.ts';",
      "export type { A } from '../activities/outbox.ts';",
      "import type { A } from '../activities/outbox.ts';",
      "// A comment before it.\nimport type {\n  A,\n} from '../activities/outbox.ts';",
      'export const text = "from \'../activities/outbox.ts\'";',
      'export const now = Date.now();',
    ],
    {
      "export { a } from '../activities/outbox.ts';": [grit],
      "export * from '../activities/outbox.ts';": [grit],
      "import { a } from '../activities/outbox.ts';": [grit],
      "import { type A } from '../activities/outbox.ts';": [grit],
      "import '../activities/outbox.ts';": [grit],
      "export const a = import('../activities/outbox.ts');": [grit],
      "export { a } from '../database/outbox.ts';": [imports],
      "export type { A } from '../database/outbox.ts';": [imports],
      "export { a } from '../kafka/topics.ts';": [imports],
      "export { a } from '../config.ts';": [imports],
      "export const a = import('../config.ts');": [imports],
      "export { a } from './../config.ts';": [imports],
      "export { a } from './deep/../../config.ts';": [imports],
      "export { a } from '../domain/../config.ts';": [imports],
      "export { a } from '../activities/../config.ts';": [grit, imports],
      "export { a } from '../some-new-layer/a.ts';": [imports],
      "export { a } from '../../test/support.ts';": [imports],
      "export { a } from '@temporalio/activity';": [imports],
      "export { a } from '@temporalio/workflow/lib/internals';": [imports],
      "export { a } from 'zod';": [imports],
      "export { a } from 'node:crypto';": [nodeModules, imports],
      "export { a } from 'fs';": [nodeModules, imports],
      'export const home = process.env.HOME;': [globals],
      "export const a = fetch('http://localhost');": [globals],
    },
  ),
  ...cases(
    'src/workflows/deep/nested/outbox.ts',
    [
      "export { a } from '@temporalio/workflow';",
      "export { a } from '../../../domain/outbox.ts';",
      "export type { A } from '../../../activities/outbox.ts';",
      "export { a } from './signals.ts';",
    ],
    {
      "export { a } from '../../../activities/outbox.ts';": [grit],
      "export { a } from '../../../database/outbox.ts';": [imports],
      "export { a } from '../../../config.ts';": [imports],
      "export { a } from '../signals.ts';": [imports],
      "export { a } from 'pg';": [grit, imports],
      "export { a } from 'kafkajs';": [imports],
      "export { a } from 'node:fs';": [nodeModules, imports],
      'export const home = process.env.HOME;': [globals],
    },
  ),
  ...cases(
    'src/domain/health.ts',
    [
      "export { a } from './outbox.ts';",
      "export { a } from '@temporalio/common';",
      'export const day = new Date(86_400_000).toISOString();',
      'export const most = Math.max(1, 2);',
    ],
    {
      "export { a } from '../database/outbox.ts';": [imports],
      "export { a } from '../config.ts';": [imports],
      "export { a } from '@temporalio/workflow';": [imports],
      "export { a } from 'zod';": [imports],
      "export type { A } from 'node:events';": [imports],
      "export { a } from 'node:path';": [nodeModules, imports],
      'export const a = Date.now();': [grit],
      'export const a = new Date();': [grit],
      'export const a = [1].map(Math.random);': [grit],
      'export const a = process.pid;': [globals],
      "export const a = fetch('http://localhost');": [globals],
      'setTimeout(String, 1);': [globals],
      'export const a = globalThis.process;': [globals],
    },
  ),
  ...cases('src/domain/deep/nested/health.ts', ["export { a } from './levels.ts';"], {
    "export { a } from '../../../kafka/topics.ts';": [imports],
    'export const a = Date.now();': [grit],
  }),
  ...cases(
    'src/activities/outbox.ts',
    [
      "export { a } from './relay.ts';",
      "export { a } from '../domain/outbox.ts';",
      "export { a } from '../database/outbox.ts';",
      "export { a } from '../kafka/publisher.ts';",
      "export { a } from '../storage/s3.ts';",
      "export { a } from '../backups/make.ts';",
      "export { a } from '../somabrain/client.ts';",
      "export { a } from '../probes/probe.ts';",
      "export { a } from '@temporalio/activity';",
      "export { a } from 'node:crypto';",
      "import type pg from 'pg';",
      'export const now = Date.now();',
    ],
    {
      "export { a } from '../workflows/outbox.ts';": [imports],
      "export { a } from '@temporalio/workflow';": [imports],
      "export { a } from 'kafkajs';": [imports],
      "export { a } from 'pg';": [grit],
      "import pg from 'pg';": [grit],
      "export { a } from '../database/../config.ts';": [imports],
      "export { a } from '../probes/../config.ts';": [imports],
      "export { a } from '../../stack/kafka.ts';": [imports],
      ...Object.fromEntries(
        ['worker', 'client', 'schedules', 'config', 'resources'].map((name) => [
          `export { a } from '../${name}.ts';`,
          [imports],
        ]),
      ),
    },
  ),
  ...['database', 'kafka', 'storage', 'backups', 'somabrain', 'probes'].flatMap((adapter) =>
    ['', 'deep/'].flatMap((folder) => {
      const up = folder === '' ? '..' : '../..';
      return cases(
        `src/${adapter}/${folder}outbox.ts`,
        [
          `export { a } from '${up}/domain/outbox.ts';`,
          "export { a } from './client.ts';",
          "export { a } from 'pino';",
          "export { a } from 'node:crypto';",
          "import type pg from 'pg';",
          ...(adapter === 'kafka' ? ["export { a } from 'kafkajs';"] : []),
          ...(adapter === 'database' ? ["export { a } from 'pg';"] : []),
        ],
        {
          [`export { a } from '${up}/activities/outbox.ts';`]: [imports],
          [`export { a } from '${up}/workflows/outbox.ts';`]: [imports],
          [`export { a } from '${up}/config.ts';`]: [imports],
          [`export { a } from '${up}/domain/../config.ts';`]: [imports],
          [`export { a } from '${up}/${adapter === 'kafka' ? 'database' : 'kafka'}/a.ts';`]: [imports],
          [`export { a } from '${up}/../test/support.ts';`]: [imports],
          ...(adapter === 'kafka' ? {} : { "export { a } from 'kafkajs';": [imports] }),
          ...(adapter === 'database' ? {} : { "export { a } from 'pg';": [grit] }),
        },
      );
    }),
  ),
  ...cases(
    'src/resources.ts',
    [
      "export { a } from './kafka/client.ts';",
      "export { a } from './activities/index.ts';",
      "import type { Kafka } from 'kafkajs';",
    ],
    {
      "export { a } from '../stack/kafka.ts';": [imports],
      "export { a } from '../test/support.ts';": [imports],
      "export { a } from '../bench/relay.ts';": [imports],
      "import { Kafka } from 'kafkajs';": [grit],
      "export { a } from 'pg';": [grit],
    },
  ),
  ...cases(
    'src/commands/repair.ts',
    [
      "export { a } from './books.ts';",
      "export { a } from '../resources.ts';",
      "export { a } from '../kafka/client.ts';",
      "import type { Kafka } from 'kafkajs';",
      "import type pg from 'pg';",
    ],
    {
      "export { a } from '../../stack/kafka.ts';": [imports],
      "export { a } from '../kafka/../../test/support.ts';": [imports],
      "import { Kafka } from 'kafkajs';": [grit],
      "import pg from 'pg';": [grit],
    },
  ),
];

interface Report {
  diagnostics: { category: string; severity: string; message: string; location: { path: string } }[];
}

/** One Biome run over all cases: each is a file in the folder it speaks of, under a copy of the project's own rules. */
const lint = async (all: Case[]): Promise<Map<string, Set<string>>> => {
  const project = await mkdtemp(path.join(tmpdir(), 'layers-'));
  try {
    await cp(path.join(root, 'scripts', 'lint'), path.join(project, 'scripts', 'lint'), { recursive: true });
    for (const file of ['biome.json', '.gitignore'])
      await cp(path.join(root, file), path.join(project, file));
    for (const [index, { file, source }] of all.entries()) {
      await mkdir(path.dirname(path.join(project, file)), { recursive: true });
      await writeFile(path.join(project, caseFile(file, index)), `${source}\n`);
    }
    const found = new Map<string, Set<string>>();
    for (const { category, severity, location } of (await report(project)).diagnostics) {
      if (severity !== 'error') continue;
      found.set(location.path, (found.get(location.path) ?? new Set()).add(category));
    }
    return found;
  } finally {
    await rm(project, { recursive: true });
  }
};

const report = (project: string) =>
  new Promise<Report>((resolve, reject) => {
    // It exits with 1 when it has findings, which is what is wanted; the JSON tells the rest.
    const options = ['lint', '--reporter=json', '--max-diagnostics=none', 'src'];
    execFile(biome, options, { cwd: project, maxBuffer: 2 ** 26 }, (_error, stdout, stderr) => {
      try {
        resolve(JSON.parse(stdout));
      } catch {
        reject(new Error(`Biome did not report JSON: ${stderr}`));
      }
    });
  });

const caseFile = (file: string, index: number): string => file.replace(/\.ts$/, `.${index}.ts`);

test('Imports and globals are allowed and refused layer by layer, nested folders included', async (t) => {
  const found = await lint(table);
  for (const [index, { file, source, refusedBy }] of table.entries()) {
    const rules = [...(found.get(caseFile(file, index)) ?? [])].filter((rule) =>
      [imports, nodeModules, globals, grit].includes(rule),
    );
    await t.test(
      `${file}: ${source} ${refusedBy.length > 0 ? `is refused by ${refusedBy}` : 'is allowed'}`,
      () => assert.deepEqual(rules.sort(), [...refusedBy].sort()),
    );
  }
});
