import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { parseEnv } from 'node:util';
import fc from 'fast-check';
import { backupSettings } from '../../src/backupSettings.ts';
import { ConfigError, readConfig } from '../../src/config.ts';

const root = path.dirname(path.dirname(import.meta.dirname));
const example = parseEnv(readFileSync(path.join(root, '.env.example'), 'utf8'));

const sentencesOf = (env: NodeJS.ProcessEnv): readonly string[] => {
  try {
    readConfig(env);
    return [];
  } catch (error) {
    assert.ok(error instanceof ConfigError);
    return error.sentences;
  }
};

/** The names that readConfig asks the environment for. */
const namesRead = (): string[] => {
  const asked = new Set<string>();
  const spy = new Proxy({}, { get: (_, name) => void asked.add(String(name)) });
  readConfig(spy);
  return [...asked].sort();
};

const s3 = {
  SA01_S3_ENDPOINT: 'http://localhost:9000',
  SA01_S3_BUCKET: 'uploads',
  AWS_ACCESS_KEY_ID: 'an-id',
  AWS_SECRET_ACCESS_KEY: 'a-secret',
};
const webhook = {
  SA01_HEALTH_WEBHOOK_URL: 'https://ann:word@hooks.internal/health',
  SA01_HEALTH_WEBHOOK_SECRET: 'a-secret',
};
const sasl = {
  SA01_KAFKA_SASL_MECHANISM: 'scram-sha-256',
  SA01_KAFKA_SASL_USERNAME: 'relay',
  SA01_KAFKA_SASL_PASSWORD: 'a-password',
};

test('.env.example names exactly the variables that are read, with their defaults', () => {
  assert.deepEqual(Object.keys(example).sort(), namesRead());
  assert.deepEqual(readConfig(example), readConfig({}));
  assert.notDeepEqual(readConfig({ ...example, SA01_OUTBOX_SHARDS: '3' }), readConfig({}));
});

test("Without any variable it points at the compose file's published ports", () => {
  assert.deepEqual(readConfig({}), {
    databaseUrl: 'postgresql://somaagent:somaagent@localhost:20432/somaagent_core',
    kafka: {
      brokers: ['localhost:20092'],
      defaultPartitions: 6,
      createTopics: true,
      ssl: false,
      sasl: undefined,
    },
    redisUrl: 'redis://localhost:20379/0',
    somabrainUrl: 'http://localhost:9696',
    somabrainToken: undefined,
    temporalAddress: 'localhost:7233',
    conversationTopic: 'conversation.inbound',
    taskQueue: 'somaagent-orchestrator',
    metricsAddress: { host: '127.0.0.1', port: 9464 },
    s3: undefined,
    storageDir: undefined,
    spoolDir: undefined,
    uploadSources: [],
    backupDestination: undefined,
    backups: {
      roots: [],
      retention: { last: 3, daily: 7, weekly: 4, monthly: 12 },
      maxAgeHours: 50,
      recipients: [],
      identityFile: undefined,
      drillChecks: [],
      pgBinDir: undefined,
    },
    healthConfig: undefined,
    healthWebhook: undefined,
    outbox: { shards: undefined, retentionDays: 7 },
    logLevel: 'info',
    shutdownSeconds: 20,
  });
});

test('Good values come out parsed', () => {
  const config = readConfig({
    ...s3,
    ...sasl,
    ...webhook,
    SA01_KAFKA_BOOTSTRAP_SERVERS: 'kafka-0:9092, kafka-1:9093,[::1]:9094',
    SA01_KAFKA_SSL: 'true',
    SA01_KAFKA_SSL_CA: '/etc/ca.pem',
    SA01_METRICS_ADDRESS: '[::]:9465',
    SA01_BACKUP_DESTINATION: 's3://backups/nightly',
    SA01_REDIS_URL: 'rediss://:a%20password@redis.internal',
    SA01_DATABASE_URL: 'postgresql:///somaagent_core?host=/run/postgresql',
    SA01_OUTBOX_SHARDS: '64',
    SA01_BACKUP_DRILL_CHECKS: '{"any": "SELECT true -- or not?"}',
    SA01_UPLOAD_SOURCES: 'https://Files.internal:443/in/, s3://inbox/',
  });
  assert.deepEqual(config.kafka, {
    brokers: ['kafka-0:9092', 'kafka-1:9093', '[::1]:9094'],
    defaultPartitions: 6,
    createTopics: true,
    ssl: { caFile: '/etc/ca.pem' },
    sasl: { mechanism: 'scram-sha-256', username: 'relay', password: 'a-password' },
  });
  assert.deepEqual(config.metricsAddress, { host: '::', port: 9465 });
  assert.deepEqual(config.s3, {
    endpoint: 'http://localhost:9000',
    bucket: 'uploads',
    accessKeyId: 'an-id',
    secretAccessKey: 'a-secret',
  });
  assert.deepEqual(config.healthWebhook, {
    url: 'https://ann:word@hooks.internal/health',
    secret: 'a-secret',
  });
  assert.equal(config.outbox.shards, 64);
  assert.deepEqual(config.backups.drillChecks, [{ name: 'any', sql: 'SELECT true -- or not?' }]);
  assert.deepEqual(config.uploadSources, ['https://files.internal/in/', 's3://inbox/']);
  assert.deepEqual(readConfig({ SA01_KAFKA_SSL: 'true' }).kafka.ssl, {});
  assert.equal(readConfig({ SA01_BACKUP_DESTINATION: 'file:///b' }).backupDestination, 'file:///b');
});

test('A destination of backups among what is stored or spooled is refused', () => {
  const env = { SA01_STORAGE_DIR: '/data/storage', SA01_SPOOL_DIR: '/data/spool' };
  readConfig({ ...env, SA01_BACKUP_DESTINATION: 'file:///data/storage-backups' });
  readConfig({ ...env, SA01_BACKUP_DESTINATION: 's3://bucket/data', ...s3 });
  for (const [directory, inTheWay] of [
    ['/data', /beside SA01_STORAGE_DIR\..*beside SA01_SPOOL_DIR\./s],
    ['/data/storage', /beside SA01_STORAGE_DIR/],
    ['/data/spool/../spool/backups/', /beside SA01_SPOOL_DIR/],
  ] as const)
    assert.throws(() => readConfig({ ...env, SA01_BACKUP_DESTINATION: `file://${directory}` }), {
      constructor: ConfigError,
      message: inTheWay,
    });
});

test('An empty string counts as unset', () => {
  const empty = Object.fromEntries(namesRead().map((name) => [name, '']));
  assert.deepEqual(readConfig(empty), readConfig({}));
});

test('The configuration is frozen to its depth', () => {
  const config = readConfig({ ...s3, ...sasl });
  for (const part of [config, config.kafka, config.kafka.brokers, config.kafka.sasl, config.s3])
    assert.ok(Object.isFrozen(part));
});

const badValues: [name: string, ...values: string[]][] = [
  ['SA01_DATABASE_URL', 'mysql://localhost/somaagent_core', 'postgresql://localhost', 'somaagent_core'],
  ['SA01_KAFKA_BOOTSTRAP_SERVERS', 'kafka', 'kafka:0', 'kafka:65536', 'kafka:9092,', 'http://kafka:9092'],
  ['SA01_KAFKA_DEFAULT_PARTITIONS', '0', '1001', '6.5', 'six', '-1', '0x10', ' 6'],
  ['SA01_KAFKA_SSL', 'yes', 'TRUE', '1'],
  ['SA01_REDIS_URL', 'http://localhost:6379', 'redis://localhost/first', 'localhost:6379'],
  ['SA01_SOMABRAIN_URL', 'localhost:9696', 'ftp://localhost', 'http://'],
  ['SA01_TEMPORAL_HOST', 'localhost', 'http://localhost:7233', 'localhost:99999'],
  ['CONVERSATION_INBOUND', 'conversation inbound', '..', 'a/b', 'a'.repeat(246)],
  ['SA01_TASK_QUEUE', 'q'.repeat(1001)],
  ['SA01_METRICS_ADDRESS', '9464', ':9464', '::1:9464', '127.0.0.1:0'],
  ['SA01_BACKUP_DESTINATION', '/var/backups', 'file://var/backups', 's3:///prefix', 'https://bucket'],
  ['SA01_BACKUP_ROOTS', 'data', '/data/../etc', '/data,relative'],
  ['SA01_BACKUP_RETENTION', 'none', 'last=0', 'hourly=3', 'last=1,last=2', 'daily=-1'],
  ['SA01_BACKUP_MAX_AGE_HOURS', '0', 'a day'],
  ['SA01_BACKUP_RECIPIENTS', 'age2x', 'age1'],
  ['SA01_BACKUP_DRILL_CHECKS', 'SELECT true', '[]', '{}', '{"a": 1}', '{"a": " "}', '{"": "SELECT true"}'],
  ['SA01_UPLOAD_SOURCES', 'https://files.internal/in', 'file:///tmp/', 'https://a/,,', 'files/'],
  ['SA01_OUTBOX_SHARDS', '0', '65', '2,5'],
  ['SA01_OUTBOX_RETENTION_DAYS', '0', '36501', '1.5', '7d'],
  ['SA01_LOG_LEVEL', 'verbose', 'INFO'],
  ['SA01_SHUTDOWN_SECONDS', '0', '3601', '20s'],
];

for (const [name, ...values] of badValues) {
  test(`A bad ${name} is named with its value and what is expected`, () => {
    for (const value of values) {
      const sentences = sentencesOf({ [name]: value });
      assert.equal(sentences.length, 1, `${value} gave ${sentences}`);
      assert.ok(sentences[0]?.startsWith(`${name} is ${JSON.stringify(value)}: expected `), sentences[0]);
      assert.match(sentences[0] ?? '', /^.+: expected [^\n]{4,}\.$/);
    }
  });
}

test('A bad bucket or SASL mechanism among good ones is named', () => {
  assert.deepEqual(sentencesOf({ ...s3, SA01_S3_BUCKET: 'My_Bucket' }), [
    'SA01_S3_BUCKET is "My_Bucket": expected a bucket name of 3 to 63 lower-case letters, digits, dots or hyphens.',
  ]);
  assert.deepEqual(sentencesOf({ ...s3, SA01_S3_ENDPOINT: 'localhost:9000' }), [
    'SA01_S3_ENDPOINT is "localhost:9000": expected an http:// or https:// URL.',
  ]);
  assert.deepEqual(sentencesOf({ ...sasl, SA01_KAFKA_SASL_MECHANISM: 'gssapi' }), [
    'SA01_KAFKA_SASL_MECHANISM is "gssapi": expected one of plain, scram-sha-256, scram-sha-512.',
  ]);
});

test('Backups to S3 need an endpoint', () => {
  assert.deepEqual(sentencesOf({ SA01_BACKUP_DESTINATION: 's3://backups/nightly' }), [
    'SA01_S3_ENDPOINT is not set: expected an http:// or https:// URL, because SA01_BACKUP_DESTINATION is s3://.',
  ]);
  assert.deepEqual(sentencesOf({ ...s3, SA01_BACKUP_DESTINATION: 's3://backups/nightly' }), []);
});

test('All bad values are said at once', () => {
  const sentences = sentencesOf({ SA01_OUTBOX_SHARDS: '0', SA01_LOG_LEVEL: 'loud', SA01_KAFKA_SSL: 'maybe' });
  assert.equal(sentences.length, 3);
});

test('S3 needs all four variables, but AWS keys alone ask for nothing', () => {
  for (const name of Object.keys(s3)) {
    const sentences = sentencesOf({ ...s3, [name]: '' });
    assert.equal(sentences.length, 1);
    assert.match(sentences[0] ?? '', new RegExp(`^${name} is not set: expected .+ is set\\.$`));
  }
  const { AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY } = s3;
  assert.equal(readConfig({ AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY }).s3, undefined);
});

test('A webhook needs its URL and a secret', () => {
  for (const name of Object.keys(webhook)) {
    assert.match(
      sentencesOf({ ...webhook, [name]: '' }).join(),
      new RegExp(`^${name} is not set: expected `),
    );
  }
  assert.deepEqual(sentencesOf({ ...webhook, SA01_HEALTH_WEBHOOK_URL: 'ftp://ann:word@hooks.internal' }), [
    'SA01_HEALTH_WEBHOOK_URL is "ftp://ann:***@hooks.internal/": expected an http:// or https:// URL.',
  ]);
});

test('SASL needs mechanism and credentials together, and a CA file needs TLS', () => {
  for (const name of Object.keys(sasl)) {
    assert.match(sentencesOf({ ...sasl, [name]: '' }).join(), new RegExp(`^${name} is not set: expected `));
  }
  assert.deepEqual(sentencesOf({ SA01_KAFKA_SSL_CA: '/etc/ca.pem' }), [
    'SA01_KAFKA_SSL is not true: expected true, because SA01_KAFKA_SSL_CA is set.',
  ]);
});

test('An age key is not shown where a recipient or a file is expected', () => {
  const key = 'AGE-SECRET-KEY-1QQQQ';
  for (const value of [key, key.toLowerCase(), `age1x,${key}`])
    assert.deepEqual(sentencesOf({ SA01_BACKUP_RECIPIENTS: value }), [
      'SA01_BACKUP_RECIPIENTS is (hidden, it holds a key): expected a comma-separated list of age recipients (age1…).',
    ]);
  const opening = () => backupSettings(readConfig({ SA01_BACKUP_IDENTITY_FILE: key }));
  assert.throws(opening, (error: Error) => {
    assert.equal(
      error.message,
      'SA01_BACKUP_IDENTITY_FILE is (hidden, it holds a key): it cannot be read (ENOENT).',
    );
    return true;
  });
});

test('A password in a bad URL is replaced, the rest is shown', () => {
  assert.deepEqual(sentencesOf({ SA01_DATABASE_URL: 'mysql://soma:secret@db:3306/core?password=secret' }), [
    'SA01_DATABASE_URL is "mysql://soma:***@db:3306/core?***": expected postgresql://user:password@host:port/database.',
  ]);
  assert.deepEqual(sentencesOf({ SA01_REDIS_URL: 'http://:se/cret@redis:6379' }), [
    'SA01_REDIS_URL is (hidden, it may hold a password): expected redis://host:port/database, or rediss:// for TLS.',
  ]);
});

test('No secret ever shows up in an error, however it is spelled', () => {
  // Both ends are marked, so that half a password shows as well; in between is anything, URL syntax included.
  const secret = fc
    .oneof(fc.string(), fc.stringMatching(/^[@/?#:\\%[\] 0-9a-f]*$/), fc.string({ unit: 'binary' }))
    .map((middle) => `5EcReT${middle}h1DdEn`);
  const host = fc.constantFrom('db', 'db:5432', 'db:99999', '', '[::1]', 'd b');
  const scheme = fc.constantFrom('mysql', 'http', 'postgresql', 'redis', 'gopher', '');
  const shows = (sentences: readonly string[]) => /5ecret|h1dden/i.test(sentences.join('\n'));
  fc.assert(
    fc.property(secret, scheme, host, fc.boolean(), (password, protocol, at, encoded) => {
      const text = encoded ? encodeURIComponent(password.toWellFormed()) : password;
      const url = `${protocol}://user:${text}@${at}/x/y`;
      for (const name of ['SA01_DATABASE_URL', 'SA01_REDIS_URL', 'SA01_SOMABRAIN_URL', 'SA01_S3_ENDPOINT'])
        assert.ok(!shows(sentencesOf({ [name]: url })), sentencesOf({ [name]: url }).join());
      assert.ok(!shows(sentencesOf({ SA01_HEALTH_WEBHOOK_URL: url })));
      assert.ok(!shows(sentencesOf({ SA01_HEALTH_WEBHOOK_SECRET: text })));
      assert.ok(!shows(sentencesOf({ SA01_DATABASE_URL: `${protocol}://${at}/?password=${text}` })));
      assert.ok(
        !shows(sentencesOf({ ...sasl, SA01_KAFKA_SASL_USERNAME: '', SA01_KAFKA_SASL_PASSWORD: text })),
      );
      assert.ok(!shows(sentencesOf({ ...s3, SA01_S3_BUCKET: '', AWS_SECRET_ACCESS_KEY: text })));
      assert.ok(!shows(sentencesOf({ ...s3, SA01_S3_BUCKET: '', AWS_ACCESS_KEY_ID: text })));
    }),
    { numRuns: 2000 },
  );
});

test('Only the entry points touch the environment, to hand it to readConfig', () => {
  const entryPoints = ['src/worker.ts', 'src/migrate.ts', 'src/outboxCommand.ts', 'src/restoreCommand.ts'];
  const readers = globSync('src/**/*.ts', { cwd: root })
    .map((file) => file.split(path.sep).join('/'))
    // The second hands PATH, HOME and PGPASSFILE on to pg_dump.
    .filter((file) => file !== 'src/config.ts' && file !== 'src/backups/programs.ts')
    .filter((file) =>
      /\bprocess\s*\.\s*env\b|\benv\b.*from 'node:process'/.test(readFileSync(path.join(root, file), 'utf8')),
    );
  assert.deepEqual(
    readers.filter((file) => !entryPoints.includes(file)),
    [],
  );
  for (const file of readers) {
    const source = readFileSync(path.join(root, file), 'utf8');
    assert.equal(
      source.match(/\bprocess\s*\.\s*env\b/g)?.length,
      source.match(/readConfig\(process\.env\)/g)?.length,
    );
  }
});
