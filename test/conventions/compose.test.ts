// docker-compose.yml against the platform's own facts, the Compose Specification and this service's configuration.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { parseEnv } from 'node:util';
import { Ajv2020 } from 'ajv/dist/2020.js';
import ajvFormats from 'ajv-formats';
import { parse } from 'yaml';
import { readConfig } from '../../src/config.ts';

const root = path.dirname(path.dirname(import.meta.dirname));
const read = (file: string): string => readFileSync(path.join(root, file), 'utf8');

interface Service {
  image?: string;
  build?: string;
  container_name?: string;
  command?: string[];
  ports?: string[];
  environment?: Record<string, string | number>;
  depends_on?: Record<string, { condition: string }>;
  configs?: { source: string; target: string }[];
  healthcheck?: { test: string[] };
  stop_grace_period?: string;
  volumes?: string[];
}
interface Compose {
  services: Record<string, Service>;
  configs: Record<string, { content: string }>;
}

const compose: Compose = parse(read('docker-compose.yml'));
const service = (name: string): Service => {
  const found = compose.services[name];
  assert.ok(found, `no service ${name}`);
  return found;
};
const environmentOf = (name: string): Record<string, string> =>
  Object.fromEntries(
    Object.entries(service(name).environment ?? {}).map(([key, value]) => [key, String(value)]),
  );

/** The published port and the service's own, each as the platform's infrastructure map has it. */
const platform = `
  service   image                      port         container           environment
  postgres  postgres:16.4              20432:5432   somaagent-postgres  POSTGRES_DB=somaagent_core POSTGRES_USER=somaagent POSTGRES_PASSWORD=somaagent
  redis     redis:7.2                  20379:6379   somaagent-redis
  kafka     apache/kafka:3.7.0         20092:20092  somaagent-kafka     KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1 KAFKA_TRANSACTION_STATE_LOG_MIN_ISR=1
  temporal  temporalio/auto-setup:1.24 7233:7233    somaagent-temporal
`;
const facts = platform
  .trim()
  .split('\n')
  .slice(1)
  .map((line) => line.trim().split(/\s+/))
  .map(([name = '', image, port, container, ...environment]) => ({
    name,
    image,
    port,
    container,
    environment,
  }));

const gatewayEnvironment = {
  SA01_KAFKA_BOOTSTRAP_SERVERS: 'kafka:9092',
  SA01_DATABASE_URL: 'postgresql://somaagent:somaagent@postgres:5432/somaagent_core',
  SA01_REDIS_URL: 'redis://redis:6379/0',
  SA01_SOMABRAIN_URL: 'http://somabrain:9696',
  SA01_TEMPORAL_HOST: 'temporal:7233',
};

test('It is valid by the Compose Specification', () => {
  const ajv = new Ajv2020({ strict: false, allErrors: true });
  // Compose's own format of durations (30s, 1h5m), which ajv-formats does not know.
  ajvFormats.default(ajv).addFormat('duration', /^(\d+(\.\d+)?(us|ms|s|m|h))+$/);
  const validate = ajv.compile(JSON.parse(read('test/conventions/compose-spec.json')));
  assert.ok(validate(compose), JSON.stringify(validate.errors, null, 2));
  assert.ok(!validate({ services: { worker: { imagee: 'x' } } }), 'the schema refuses nothing');
});

for (const { name, image, port, container, environment } of facts) {
  test(`${name} is the platform's: image, port, container and environment`, () => {
    const found = service(name);
    assert.equal(found.image, image);
    assert.deepEqual(found.ports, [`127.0.0.1:${port}`]);
    assert.equal(found.container_name, container);
    const given = Object.entries(environmentOf(name)).map(([key, value]) => `${key}=${value}`);
    for (const fact of environment) assert.ok(given.includes(fact), `${fact} is not in ${given}`);
  });
}

test('Every published port is bound to loopback', () => {
  for (const [name, { ports = [] }] of Object.entries(compose.services))
    for (const port of ports) assert.match(port, /^127\.0\.0\.1:\d+:\d+$/, name);
});

test('Kafka is KRaft, and calls clients back where they are: kafka:9092 inside, localhost:20092 outside', () => {
  const kafka = environmentOf('kafka');
  assert.equal(kafka.KAFKA_PROCESS_ROLES, 'broker,controller');
  assert.equal(kafka.KAFKA_ADVERTISED_LISTENERS, 'PLAINTEXT://kafka:9092,HOST://localhost:20092');
});

test('Redis keeps what it took over a restart', () => {
  assert.deepEqual(service('redis').command, ['redis-server', '--appendonly', 'yes']);
});

test("Temporal has a user and databases of its own on the platform's Postgres", () => {
  const { DB, DB_PORT, POSTGRES_SEEDS, POSTGRES_USER, POSTGRES_PWD } = environmentOf('temporal');
  assert.deepEqual([DB, DB_PORT, POSTGRES_SEEDS], ['postgres12', '5432', 'postgres']);
  assert.notEqual(POSTGRES_USER, environmentOf('postgres').POSTGRES_USER);
  const [made] = service('postgres').configs ?? [];
  const sql = compose.configs[made?.source ?? '']?.content ?? '';
  assert.ok(made?.target.startsWith('/docker-entrypoint-initdb.d/'));
  assert.ok(sql.includes(`CREATE ROLE ${POSTGRES_USER} LOGIN PASSWORD '${POSTGRES_PWD}';`));
  for (const database of ['temporal', 'temporal_visibility'])
    assert.ok(sql.includes(`CREATE DATABASE ${database} OWNER ${POSTGRES_USER};`));
});

test('The orchestrator calls the services by their names, with a configuration that it accepts', () => {
  const environment = environmentOf('orchestrator');
  const config = readConfig(environment);
  for (const [name, value] of Object.entries(gatewayEnvironment)) assert.equal(environment[name], value);
  const known = Object.keys(parseEnv(read('.env.example')));
  assert.deepEqual(
    Object.keys(environment).filter((name) => !known.includes(name)),
    [],
  );
  assert.deepEqual(service('orchestrator').ports, [
    `127.0.0.1:${config.metricsAddress.port}:${config.metricsAddress.port}`,
  ]);
});

test('The published ports are the defaults of a service on the host', () => {
  const { databaseUrl, redisUrl, kafka, temporalAddress } = readConfig({});
  const published = facts.map(({ port }) => `localhost:${port?.split(':')[0]}`);
  const used = [new URL(databaseUrl).host, new URL(redisUrl).host, ...kafka.brokers, temporalAddress];
  assert.deepEqual(used, published);
});

test('The orchestrator starts after healthy services and says when it is ready', () => {
  const { depends_on: needs = {}, healthcheck } = service('orchestrator');
  assert.deepEqual(Object.keys(needs).sort(), ['kafka', 'postgres', 'redis', 'temporal']);
  assert.match(healthcheck?.test.at(-1) ?? '', /fetch\('http:\/\/127\.0\.0\.1:9464\/readyz'\)/);
  for (const { depends_on: all = {} } of Object.values(compose.services))
    for (const [name, { condition }] of Object.entries(all)) {
      assert.equal(condition, 'service_healthy');
      assert.ok(service(name).healthcheck, `${name} has no health check`);
    }
});

test('The orchestrator is given longer to stop than it takes', () => {
  const { shutdownSeconds } = readConfig(environmentOf('orchestrator'));
  const grace = /^(\d+)s$/.exec(service('orchestrator').stop_grace_period ?? '')?.[1];
  assert.ok(Number(grace) > shutdownSeconds);
});

test("The image runs the Node that package.json pins, as nobody's root", () => {
  const { devDependencies } = JSON.parse(read('package.json'));
  const dockerfile = read('Dockerfile');
  const bases = [...dockerfile.matchAll(/^FROM (\S+)/gm)].map(([, image]) => image);
  assert.ok(bases.length > 1);
  for (const image of bases) assert.equal(image, `node:${devDependencies.node}-bookworm-slim`);
  assert.match(dockerfile.slice(dockerfile.lastIndexOf('FROM')), /^USER node$/m);
});

test("The image dumps the compose file's Postgres, to a volume that it may write to", () => {
  const dockerfile = read('Dockerfile');
  const [, major] = /^postgres:(\d+)/.exec(service('postgres').image ?? '') ?? [];
  assert.match(dockerfile, new RegExp(`install .* postgresql-client-${major} `));
  assert.match(dockerfile, new RegExp(`^ENV .*SA01_PG_BIN_DIR=/usr/lib/postgresql/${major}/bin$`, 'm'));
  const places = (service('orchestrator').volumes ?? []).map((volume) => volume.split(':')[1] ?? '');
  const [, made = ''] = /install -d -o node -g node (.*)$/m.exec(dockerfile) ?? [];
  assert.deepEqual(made.split(' '), places, 'a new volume has the owner of the directory below it');
  const { backupDestination } = readConfig(environmentOf('orchestrator'));
  assert.ok(places.includes(new URL(backupDestination ?? '').pathname));
});

test('Continuous integration calls npm test and nothing else', () => {
  assert.deepEqual(read('.ci/run').trim().split('\n').slice(1), [
    'set -euo pipefail',
    'cd "$(dirname "$0")/.."',
    'exec npm test',
  ]);
  const { jobs } = parse(read('.github/workflows/ci.yml'));
  const steps: { uses?: string; run?: string }[] = jobs.test.steps;
  assert.deepEqual(
    steps.flatMap(({ run }) => run ?? []),
    ['bash .ci/run'],
  );
  for (const { uses } of steps) assert.match(uses ?? '@'.padEnd(41, '0'), /@[0-9a-f]{40}$/);
});
