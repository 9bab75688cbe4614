import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, suite, test } from 'node:test';
import fc from 'fast-check';
import { ConfigError, readConfig } from '../../src/config.ts';
import { COMPONENT_NAMES, COMPONENTS } from '../../src/domain/healthComponents.ts';
import { readHealthModel } from '../../src/healthConfig.ts';
import type { HealthModel } from '../../src/probes/target.ts';

const directory = mkdtempSync(path.join(tmpdir(), 'health-'));
const file = path.join(directory, 'health.json');
after(() => rmSync(directory, { recursive: true }));

const env = {
  SA01_S3_ENDPOINT: 'http://localhost:9000',
  SA01_S3_BUCKET: 'uploads',
  AWS_ACCESS_KEY_ID: 'an-id',
  AWS_SECRET_ACCESS_KEY: 'a-secret',
  SA01_STORAGE_DIR: '/var/storage',
};
const withoutFile = (environment: NodeJS.ProcessEnv = {}): HealthModel =>
  readHealthModel(readConfig(environment));

function withText(text: string): HealthModel {
  writeFileSync(file, text);
  return readHealthModel(readConfig({ SA01_HEALTH_CONFIG: file }));
}
const withFile = (content: unknown): HealthModel => withText(JSON.stringify(content));

/** What is said against the content, without the file's name in front, which is always there. */
function sentencesOf(read: () => HealthModel): string[] {
  try {
    read();
    return [];
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    for (const sentence of error.sentences) assert.ok(sentence.includes(directory), sentence);
    return error.sentences.map((sentence) => sentence.replace(`${file}: `, ''));
  }
}

const http = (url: string, limitSeconds = 20) => ({ target: { kind: 'http', url }, limitSeconds });

suite('without a file', () => {
  test('the platform is checked as its source says, with what the environment has addresses for', () => {
    const { plan, probing } = withoutFile(env);
    const { version, components, ...timing } = plan;
    assert.match(version, /^[0-9a-f]{16}$/);
    assert.deepEqual(timing, {
      intervalSeconds: 30,
      rules: {
        softIntervalSeconds: 5,
        down: 3,
        up: 2,
        graceSeconds: 60,
        suppressionSeconds: 300,
        errorWindow: 20,
      },
    });
    assert.deepEqual(components.kafka, {
      monitoring: 'probed',
      dependsOn: {},
      slowSeconds: [5, 10, 15],
      errorRates: [0.1, 0.2],
      breaker: { failures: 5, openSeconds: 60, maxOpenSeconds: 300, trials: 2 },
    });
    const byMonitoring = (kind: string) =>
      COMPONENT_NAMES.filter((name) => components[name].monitoring === kind);
    assert.deepEqual(byMonitoring('probed'), [
      'database',
      'kafka',
      'redis',
      'temporal',
      'somabrain',
      'storage',
    ]);
    assert.deepEqual(byMonitoring('derived'), ['upload_service', 'task_scheduler']);
    for (const name of COMPONENT_NAMES) {
      assert.deepEqual(components[name].dependsOn, COMPONENTS[name].dependsOn);
      assert.equal(components[name].breaker !== undefined, COMPONENTS[name].hasBreaker, name);
      assert.equal(probing[name] !== undefined, components[name].monitoring === 'probed', name);
    }
  });

  test('probes reach what the environment names, each with its limit', () => {
    const { databaseUrl, redisUrl, somabrainUrl, s3 } = readConfig(env);
    assert.deepEqual(withoutFile(env).probing, {
      database: { target: { kind: 'postgres', url: databaseUrl }, limitSeconds: 5 },
      kafka: { target: { kind: 'kafka' }, limitSeconds: 5 },
      redis: { target: { kind: 'redis', url: redisUrl }, limitSeconds: 5 },
      temporal: { target: { kind: 'temporal' }, limitSeconds: 5 },
      somabrain: { target: { kind: 'somabrain', url: somabrainUrl }, limitSeconds: 20 },
      storage: {
        members: {
          s3: { target: { kind: 's3', ...s3! }, limitSeconds: 10 },
          filesystem: { target: { kind: 'filesystem', root: '/var/storage' }, limitSeconds: 10 },
          redis: { target: { kind: 'redisStore', url: redisUrl }, limitSeconds: 10 },
        },
      },
    });
    const { storage } = withoutFile().probing;
    assert.deepEqual(Object.keys(storage && 'members' in storage ? storage.members : {}), ['redis']);
  });

  test('backups are judged where a destination for them is configured', () => {
    const configured = { ...env, SA01_BACKUP_DESTINATION: 'file:///b', SA01_BACKUP_MAX_AGE_HOURS: '30' };
    const { databaseUrl: url } = readConfig(env);
    assert.deepEqual(withoutFile(configured).probing.backup_service, {
      target: { kind: 'backups', url, source: new URL(url).pathname.slice(1), maxAgeHours: 30 },
      limitSeconds: 5,
    });
    assert.equal(withoutFile(configured).plan.components.backup_service.monitoring, 'probed');
    assert.equal(withoutFile(env).plan.components.backup_service.monitoring, 'unmonitored');
  });

  test('the order of the storage tiers is that in which uploads try them', () => {
    const { storage } = withoutFile(env).probing;
    const members = storage && 'members' in storage ? storage.members : {};
    assert.deepEqual(Object.keys(members), ['s3', 'filesystem', 'redis']);
  });
});

suite('a file', () => {
  test('that is an empty object changes nothing', () => {
    assert.deepEqual(withText('{}'), withoutFile());
    assert.deepEqual(withText('{"rules": {}, "components": {"kafka": {}}}'), withoutFile());
  });

  test('changes what it names and nothing else', () => {
    const { plan, probing } = withFile({
      intervalSeconds: 2,
      rules: { softIntervalSeconds: 1, down: 2 },
      components: {
        gateway: { url: 'https://user:word@gateway:21016/ready?deep=1', limitSeconds: 0.5 },
        llm: { members: { openai: { url: 'http://a/' }, local: { url: 'http://b' } } },
        redis: {
          limitSeconds: 1,
          slowSeconds: [0.1, 0.2, 0.3],
          errorRates: [0, 1],
          breaker: { failures: 3 },
        },
        kafka: { breaker: false },
        tool_executor: { dependsOn: { kafka: 'soft' } },
        task_scheduler: { monitored: false },
        somabrain: { monitored: false },
      },
    });
    const before = withoutFile();
    assert.equal(plan.intervalSeconds, 2);
    assert.deepEqual(plan.rules, { ...before.plan.rules, softIntervalSeconds: 1, down: 2 });
    assert.deepEqual(probing.gateway, http('https://user:word@gateway:21016/ready?deep=1', 0.5));
    assert.deepEqual(probing.llm, { members: { openai: http('http://a/'), local: http('http://b') } });
    assert.equal(probing.somabrain, undefined);
    const { components } = plan;
    assert.deepEqual(
      ['gateway', 'llm', 'task_scheduler', 'somabrain', 'upload_service'].map(
        (name) => components[name as 'llm'].monitoring,
      ),
      ['probed', 'probed', 'unmonitored', 'unmonitored', 'derived'],
    );
    assert.deepEqual(components.redis, {
      monitoring: 'probed',
      dependsOn: {},
      slowSeconds: [0.1, 0.2, 0.3],
      errorRates: [0, 1],
      breaker: { failures: 3, openSeconds: 60, maxOpenSeconds: 300, trials: 2 },
    });
    assert.equal(components.kafka.breaker, undefined);
    assert.deepEqual(components.tool_executor.dependsOn, { kafka: 'soft' });
    assert.deepEqual(components.auth_service, before.plan.components.auth_service);
  });

  test('gives the plan another version where, and only where, the plan is another', () => {
    const version = (content: unknown) => withFile(content).plan.version;
    const own = version({});
    assert.equal(version({ intervalSeconds: 30, rules: { up: 2, down: 3 } }), own);
    assert.equal(version({ components: { redis: { limitSeconds: 1 } } }), own, 'limits are not in the plan');
    const dependsOn = { llm: 'hard', kafka: 'hard', database: 'hard' };
    const turned = Object.fromEntries(Object.entries(dependsOn).reverse());
    const [one, other] = [dependsOn, turned].map((edges) =>
      version({ components: { tool_executor: { dependsOn: edges } } }),
    );
    assert.equal(one, other, 'whatever the order of the fields');
    const versions = [own, one, version({ intervalSeconds: 31 }), version({ rules: { up: 3 } })];
    assert.equal(new Set(versions).size, versions.length);
  });

  test('keeps addresses and secrets out of the plan', () => {
    const { plan } = withFile({ components: { gateway: { url: 'http://u:5EcReT@gateway/' } } });
    assert.doesNotMatch(JSON.stringify(plan), /5EcReT|gateway\/|localhost|somaagent/);
  });
});

const badContents: [content: unknown, ...sentences: string[]][] = [
  [[], 'all of it is []: expected an object.'],
  [{ interval: 3 }, 'interval is unknown: expected one of intervalSeconds, rules, components.'],
  [{ intervalSeconds: 0 }, 'intervalSeconds is 0: expected a whole number from 1 to 3600.'],
  [{ intervalSeconds: 1.5 }, 'intervalSeconds is 1.5: expected a whole number from 1 to 3600.'],
  [{ intervalSeconds: '30' }, 'intervalSeconds is "30": expected a whole number from 1 to 3600.'],
  [
    { rules: { softIntervalSeconds: 61, down: 0 } },
    'rules.softIntervalSeconds is 61: expected a number from 1 to 60.',
    'rules.down is 0: expected a whole number from 1 to 100.',
  ],
  [{ components: 7 }, 'components is 7: expected an object.'],
  [
    { components: { gatway: {} } },
    `components.gatway is unknown: expected one of ${COMPONENT_NAMES.join(', ')}.`,
  ],
  [
    { components: { gateway: { uri: 'http://x' } } },
    'components.gateway.uri is unknown: expected one of url, members, limitSeconds, slowSeconds, errorRates, dependsOn, breaker, monitored.',
  ],
  [
    { components: { gateway: { url: 'ftp://ann:secret@gateway' } } },
    'components.gateway.url is "ftp://ann:***@gateway/": expected an http:// or https:// URL.',
  ],
  [
    { components: { gateway: { url: ['http://ann:secret@gateway'] } } },
    'components.gateway.url is (hidden, it may hold a password): expected an http:// or https:// URL.',
  ],
  [
    { components: { kafka: { url: 'http://kafka' } } },
    'components.kafka.url is "http://kafka": expected it only for gateway, auth_service, conversation_worker, tool_executor, voice_service, multimodal.',
  ],
  [
    { components: { storage: { members: { s3: { url: 'http://s3' } } } } },
    'components.storage.members is {"s3":{"url":"http://s3"}}: expected it only for llm, audio_tts, audio_stt.',
  ],
  [{ components: { llm: { members: {} } } }, 'components.llm.members is {}: expected at least one provider.'],
  [
    { components: { llm: { members: { 'a b': { url: 'http://x' } } } } },
    'components.llm.members."a b" is no name: expected 1 to 64 letters, digits, dots, underscores or hyphens.',
  ],
  [
    { components: { llm: { members: { a: {} } } } },
    'components.llm.members.a.url is not set: expected an http:// or https:// URL.',
  ],
  [
    { components: { redis: { slowSeconds: [5, 5, 15] } } },
    'components.redis.slowSeconds is [5,5,15]: expected 3 numbers from 0.001 to 300, each larger than the one before.',
  ],
  [
    { components: { redis: { slowSeconds: [5, 10], errorRates: [0.2, 1.1], limitSeconds: 0 } } },
    'components.redis.limitSeconds is 0: expected a number from 0.1 to 300.',
    'components.redis.slowSeconds is [5,10]: expected 3 numbers from 0.001 to 300, each larger than the one before.',
    'components.redis.errorRates is [0.2,1.1]: expected 2 numbers from 0 to 1, each larger than the one before.',
  ],
  [
    { components: { kafka: { breaker: { failures: 0, opens: 1 } } } },
    'components.kafka.breaker.failures is 0: expected a whole number from 1 to 1000.',
    'components.kafka.breaker.opens is unknown: expected one of failures, openSeconds, maxOpenSeconds, trials.',
  ],
  [
    { components: { kafka: { breaker: true } } },
    'components.kafka.breaker is true: expected false, or an object.',
  ],
  [
    { components: { kafka: { breaker: { openSeconds: 400 } } } },
    'components.kafka.breaker.openSeconds is 400: expected at most maxOpenSeconds, which is 300.',
  ],
  [
    { components: { kafka: { monitored: true } } },
    'components.kafka.monitored is true: expected false, or nothing.',
  ],
  [
    { components: { gateway: { dependsOn: { kafka: 'strong', cafka: 'hard' } } } },
    'components.gateway.dependsOn.kafka is "strong": expected "hard" or "soft".',
    `components.gateway.dependsOn.cafka is unknown: expected one of ${COMPONENT_NAMES.join(', ')}.`,
  ],
  [
    { components: { database: { dependsOn: { gateway: 'soft' } } } },
    'components depend on themselves, database → gateway → database: expected no circle.',
  ],
  [
    { components: { redis: { dependsOn: { redis: 'hard' } } } },
    'components depend on themselves, redis → redis: expected no circle.',
  ],
  [
    { components: { task_scheduler: { dependsOn: {} } } },
    'components.task_scheduler.dependsOn is {}: expected at least one, for task_scheduler fares as what it depends on.',
  ],
];

suite('what is wrong with a file is said in a sentence', () => {
  for (const [content, ...sentences] of badContents) {
    test(JSON.stringify(content), () => {
      assert.deepEqual(
        sentencesOf(() => withFile(content)),
        sentences,
      );
    });
  }

  test('all of it at once', () => {
    const content = {
      intervalSeconds: 'x',
      rules: { errorWindow: 0 },
      components: { database: { dependsOn: { gateway: 'hard' } }, gateway: { url: 'x' }, nobody: {} },
    };
    assert.equal(sentencesOf(() => withFile(content)).length, 5);
  });

  for (const [text, place] of [
    ['', 'line 1, column 1'],
    ['{"rules": {}', 'line 1, column 13'],
    ['{\n  "rules": {},\n}', 'line 3, column 1'],
    ['{\n  "intervalSeconds": thirty\n}', 'line 2, column 23'],
    ['{\n  "a": "http://u:5EcReT@h" \n  "b": 5EcReT\n}', 'line 3, column 3'],
    ['{"a": "http://u:5EcReT@h",\n "b": x5EcReT}', 'line 2, column 7'],
    ["{'a': 1}", 'line 1, column 2'],
  ] as const) {
    test(`where it is not JSON: ${JSON.stringify(text)}`, () => {
      assert.deepEqual(
        sentencesOf(() => withText(text)),
        [`it is not JSON from ${place} on: expected one JSON object.`],
      );
    });
  }

  test('a file that cannot be read', () => {
    for (const [name, code] of [
      [path.join(directory, 'nothing.json'), 'ENOENT'],
      [directory, 'EISDIR'],
    ] as const) {
      const config = readConfig({ SA01_HEALTH_CONFIG: name });
      assert.deepEqual(
        sentencesOf(() => readHealthModel(config)),
        [`SA01_HEALTH_CONFIG is ${JSON.stringify(name)}: expected a file that can be read (${code}).`],
      );
    }
  });

  test('and no password of a URL, wherever that stands', () => {
    const secret = fc.stringMatching(/^[@/?#:\\%[\] 0-9a-f"]{0,8}$/).map((middle) => `5EcReT${middle}h1DdEn`);
    const url = fc
      .tuple(fc.constantFrom('ftp', 'http', ''), secret)
      .map(([scheme, word]) => `${scheme}://u:${word}@h/`);
    const make: ((url: string) => unknown)[] = [
      (text) => ({ components: { gateway: { url: text } } }),
      (text) => ({ components: { gateway: { url: { text } } } }),
      (text) => ({ components: { kafka: { url: text, members: text, limitSeconds: text } } }),
      (text) => ({ components: { llm: { members: { a: text, [text]: { url: text } } } } }),
      (text) => ({ components: { gateway: { [text]: 1, dependsOn: text } } }),
      (text) => text,
    ];
    fc.assert(
      fc.property(url, fc.constantFrom(...make), (text, content) => {
        const said = sentencesOf(() => withFile(content(text))).join('\n');
        assert.doesNotMatch(said, /5ecret|h1dden/i);
      }),
      { numRuns: 1_000 },
    );
  });
});
