// The one file that reads the environment. A bad value ends the start with a sentence that names the variable, the
// value (secrets hidden) and what is expected; what comes out is frozen, so nobody configures anything later.

import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { overlap } from './backups/names.ts';
import type { Address } from './configValues.ts';
import {
  address,
  brokers,
  directories,
  drillChecks,
  httpUrl,
  integer,
  oneOf,
  parseAddress,
  recipients,
  retention,
  sources,
  text,
  topic,
  urlOf,
} from './configValues.ts';
import { MAX_OUTBOX_SHARDS } from './database/deployment.ts';
import { parseRetention, type RetentionPolicy } from './domain/backupRetention.ts';
import type { DrillCheck } from './domain/backups.ts';

export interface Config {
  databaseUrl: string;
  kafka: {
    brokers: string[];
    /** For topics without a planned count. */
    defaultPartitions: number;
    createTopics: boolean;
    ssl: false | { caFile?: string };
    sasl: undefined | { mechanism: SaslMechanism; username: string; password: string };
  };
  redisUrl: string;
  somabrainUrl: string;
  /** Undefined: SomaBrain is asked without one. */
  somabrainToken: string | undefined;
  /** Only a fallback: Temporal's own TEMPORAL_ADDRESS wins. */
  temporalAddress: string;
  conversationTopic: string;
  taskQueue: string;
  metricsAddress: { host: string; port: number };
  /** Undefined: the s3 tier is off. */
  s3: undefined | { endpoint: string; bucket: string; accessKeyId: string; secretAccessKey: string };
  storageDir: string | undefined;
  spoolDir: string | undefined;
  /** What references to an upload's bytes may begin with, beside the spool and the own bucket. */
  uploadSources: string[];
  backupDestination: string | undefined;
  backups: {
    /** Tasks may name these directories and what lies below them, as source and as destination. */
    roots: string[];
    /** Undefined: nothing is ever removed. */
    retention: RetentionPolicy | undefined;
    /** Of the scheduled ones; an older one is told by the health component backup_service. */
    maxAgeHours: number;
    /** age recipients; none: backups are not encrypted. */
    recipients: string[];
    /** Holds the identity that restores and drills of encrypted backups need. */
    identityFile: string | undefined;
    /** What a restore drill asks the database that it has restored. */
    drillChecks: DrillCheck[];
    /** Has pg_dump, pg_dumpall and pg_restore; undefined: the PATH has. */
    pgBinDir: string | undefined;
  };
  healthConfig: string | undefined;
  /** Undefined: notices of the health cycle go to Kafka only. */
  healthWebhook: undefined | { url: string; secret: string };
  /** `shards` undefined: the number that is recorded in Postgres. Another number than that is refused there. */
  outbox: { shards: number | undefined; retentionDays: number };
  logLevel: string;
  /** How long a graceful stop may take. */
  shutdownSeconds: number;
}

const saslMechanisms = ['plain', 'scram-sha-256', 'scram-sha-512'] as const;
export type SaslMechanism = (typeof saslMechanisms)[number];

/** All that is wrong with the environment, one sentence a variable. */
export class ConfigError extends Error {
  readonly sentences: readonly string[];

  constructor(sentences: readonly string[]) {
    super(sentences.join('\n'));
    this.name = 'ConfigError';
    this.sentences = sentences;
  }
}

const variables = {
  SA01_DATABASE_URL: urlOf(
    ['postgresql:', 'postgres:'],
    'postgresql://user:password@host:port/database',
    (url) => url.pathname.length > 1 && (url.hostname !== '' || url.searchParams.has('host')),
  ).default('postgresql://somaagent:somaagent@localhost:20432/somaagent_core'),
  SA01_KAFKA_BOOTSTRAP_SERVERS: brokers.default(['localhost:20092']),
  SA01_KAFKA_DEFAULT_PARTITIONS: integer(1, 1000).default(6),
  SA01_KAFKA_CREATE_TOPICS: oneOf(['true', 'false']).default('true'),
  SA01_KAFKA_SSL: oneOf(['true', 'false']).default('false'),
  SA01_KAFKA_SSL_CA: text('the file of a certificate authority').optional(),
  SA01_KAFKA_SASL_MECHANISM: oneOf(saslMechanisms).optional(),
  SA01_KAFKA_SASL_USERNAME: text('a user name').optional(),
  SA01_KAFKA_SASL_PASSWORD: text('a password').optional(),
  SA01_REDIS_URL: urlOf(
    ['redis:', 'rediss:'],
    'redis://host:port/database, or rediss:// for TLS',
    (url) => url.hostname !== '' && /^\/?\d*$/.test(url.pathname),
  ).default('redis://localhost:20379/0'),
  SA01_SOMABRAIN_URL: httpUrl.default('http://localhost:9696'),
  SA01_SOMABRAIN_TOKEN: text('a bearer token').optional(),
  SA01_TEMPORAL_HOST: address.default('localhost:7233'),
  CONVERSATION_INBOUND: topic.default('conversation.inbound'),
  SA01_TASK_QUEUE: z
    .string()
    .max(1000)
    .describe('a task queue name of at most 1000 characters')
    .default('somaagent-orchestrator'),
  SA01_METRICS_ADDRESS: address.default('127.0.0.1:9464'),
  SA01_S3_ENDPOINT: httpUrl.optional(),
  SA01_S3_BUCKET: z
    .string()
    .regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/)
    .describe('a bucket name of 3 to 63 lower-case letters, digits, dots or hyphens')
    .optional(),
  AWS_ACCESS_KEY_ID: text('an access key id').optional(),
  AWS_SECRET_ACCESS_KEY: text('a secret access key').optional(),
  SA01_STORAGE_DIR: text('a directory').optional(),
  SA01_SPOOL_DIR: text('a directory').optional(),
  SA01_UPLOAD_SOURCES: sources.default([]),
  SA01_BACKUP_DESTINATION: urlOf(
    ['file:', 's3:'],
    'file:///directory or s3://bucket/prefix',
    // "file://tmp/x" would name a host, and "s3:///x" no bucket.
    (url) => (url.protocol === 'file:') === (url.hostname === ''),
  ).optional(),
  SA01_BACKUP_ROOTS: directories.default([]),
  SA01_BACKUP_RETENTION: retention.default('last=3,daily=7,weekly=4,monthly=12'),
  SA01_BACKUP_MAX_AGE_HOURS: integer(1, 100_000).default(50),
  SA01_BACKUP_RECIPIENTS: recipients.default([]),
  SA01_BACKUP_IDENTITY_FILE: text('a file').optional(),
  SA01_BACKUP_DRILL_CHECKS: drillChecks.default([]),
  SA01_PG_BIN_DIR: text('a directory').optional(),
  SA01_HEALTH_CONFIG: text('a file').optional(),
  SA01_HEALTH_WEBHOOK_URL: httpUrl.optional(),
  SA01_HEALTH_WEBHOOK_SECRET: text('a secret').optional(),
  SA01_OUTBOX_SHARDS: integer(1, MAX_OUTBOX_SHARDS).optional(),
  SA01_OUTBOX_RETENTION_DAYS: integer(1, 36_500).default(7),
  SA01_LOG_LEVEL: oneOf(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  SA01_SHUTDOWN_SECONDS: integer(1, 3600).default(20),
};

type Name = keyof typeof variables;
const schema = z.object(variables);
const names = Object.keys(variables) as Name[];

/** Variables that only mean something together; AWS_* keys alone ask for nothing, many machines have them set. */
const groups: { asks: Name[]; needs: Name[] }[] = [
  {
    asks: ['SA01_KAFKA_SASL_MECHANISM', 'SA01_KAFKA_SASL_USERNAME', 'SA01_KAFKA_SASL_PASSWORD'],
    needs: ['SA01_KAFKA_SASL_MECHANISM', 'SA01_KAFKA_SASL_USERNAME', 'SA01_KAFKA_SASL_PASSWORD'],
  },
  {
    asks: ['SA01_S3_ENDPOINT', 'SA01_S3_BUCKET'],
    needs: ['SA01_S3_ENDPOINT', 'SA01_S3_BUCKET', 'AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'],
  },
  {
    asks: ['SA01_HEALTH_WEBHOOK_URL', 'SA01_HEALTH_WEBHOOK_SECRET'],
    needs: ['SA01_HEALTH_WEBHOOK_URL', 'SA01_HEALTH_WEBHOOK_SECRET'],
  },
];

/**
 * A value as an error may show it. Where a password may hide, the value is taken apart like a URL; one that does not
 * come apart cleanly (a password with an unescaped @, / or #) is not shown at all, because its parts cannot be told.
 * Keys and passwords with a variable of their own are never shown, because any text is good there; nor is an age key
 * where a recipient or a file is expected.
 */
export function shown(value: string): string {
  if (/AGE-SECRET-KEY-/i.test(value)) return '(hidden, it holds a key)';
  if (!/[@?]/.test(value)) return JSON.stringify(value);
  const url = URL.parse(value);
  if (url === null || url.pathname.includes('@') || url.hash !== '')
    return '(hidden, it may hold a password)';
  if (url.password !== '') url.password = '***';
  if (url.search !== '') url.search = '***';
  return JSON.stringify(url.href);
}

type Values = Partial<Record<Name, string>>;

/** An empty string counts as unset: compose files and shells have no other way to unset a variable. */
function pick(env: NodeJS.ProcessEnv): Values {
  return Object.fromEntries(names.map((name) => [name, env[name] || undefined]));
}

function expected(name: Name): string {
  const schema = variables[name];
  return schema.description ?? schema.unwrap().description ?? 'another value';
}

function missing(values: Values): string[] {
  return groups.flatMap(({ asks, needs }) => {
    const asking = asks.find((name) => values[name]);
    return needs
      .filter((name) => asking && !values[name])
      .map((name) => `${name} is not set: expected ${expected(name)}, because ${asking} is set.`);
  });
}

/** Backups are not to lie among bytes that this service stores or spools. */
function mixed({ SA01_BACKUP_DESTINATION: url, ...others }: z.infer<typeof schema>): string[] {
  if (!url?.startsWith('file:')) return [];
  const directory = path.resolve(fileURLToPath(url));
  return (['SA01_STORAGE_DIR', 'SA01_SPOOL_DIR'] as const)
    .filter((name) => others[name] && overlap(path.resolve(others[name]), directory))
    .map((name) => `SA01_BACKUP_DESTINATION is ${shown(url)}: expected a directory beside ${name}.`);
}

/** Defaults apply, every variable is checked, and all that is wrong is said at once, by a ConfigError. */
export function readConfig(env: NodeJS.ProcessEnv): Config {
  const values = pick(env);
  const parsed = schema.safeParse(values);
  const bad = new Set(parsed.error?.issues.map((issue) => issue.path[0] as Name));
  const sentences = [...bad].map(
    (name) => `${name} is ${shown(values[name] ?? '')}: expected ${expected(name)}.`,
  );
  sentences.push(...missing(values));
  if (values.SA01_KAFKA_SSL_CA && values.SA01_KAFKA_SSL !== 'true') {
    sentences.push('SA01_KAFKA_SSL is not true: expected true, because SA01_KAFKA_SSL_CA is set.');
  }
  if (parsed.data?.SA01_BACKUP_DESTINATION?.startsWith('s3:') && !values.SA01_S3_ENDPOINT) {
    sentences.push(
      `SA01_S3_ENDPOINT is not set: expected ${expected('SA01_S3_ENDPOINT')}, because SA01_BACKUP_DESTINATION is s3://.`,
    );
  }
  if (parsed.success) sentences.push(...mixed(parsed.data));
  if (!parsed.success || sentences.length > 0) throw new ConfigError(sentences);
  return deepFreeze(assemble(parsed.data));
}

function assemble(read: z.infer<typeof schema>): Config {
  return {
    databaseUrl: read.SA01_DATABASE_URL,
    kafka: {
      brokers: read.SA01_KAFKA_BOOTSTRAP_SERVERS,
      defaultPartitions: read.SA01_KAFKA_DEFAULT_PARTITIONS,
      createTopics: read.SA01_KAFKA_CREATE_TOPICS === 'true',
      ssl:
        read.SA01_KAFKA_SSL === 'true' && (read.SA01_KAFKA_SSL_CA ? { caFile: read.SA01_KAFKA_SSL_CA } : {}),
      sasl: read.SA01_KAFKA_SASL_MECHANISM
        ? {
            mechanism: read.SA01_KAFKA_SASL_MECHANISM,
            username: read.SA01_KAFKA_SASL_USERNAME ?? '',
            password: read.SA01_KAFKA_SASL_PASSWORD ?? '',
          }
        : undefined,
    },
    redisUrl: read.SA01_REDIS_URL,
    somabrainUrl: read.SA01_SOMABRAIN_URL,
    somabrainToken: read.SA01_SOMABRAIN_TOKEN,
    temporalAddress: read.SA01_TEMPORAL_HOST,
    conversationTopic: read.CONVERSATION_INBOUND,
    taskQueue: read.SA01_TASK_QUEUE,
    metricsAddress: parseAddress(read.SA01_METRICS_ADDRESS) as Address,
    s3: read.SA01_S3_ENDPOINT
      ? {
          endpoint: read.SA01_S3_ENDPOINT,
          bucket: read.SA01_S3_BUCKET ?? '',
          accessKeyId: read.AWS_ACCESS_KEY_ID ?? '',
          secretAccessKey: read.AWS_SECRET_ACCESS_KEY ?? '',
        }
      : undefined,
    storageDir: read.SA01_STORAGE_DIR,
    spoolDir: read.SA01_SPOOL_DIR,
    uploadSources: read.SA01_UPLOAD_SOURCES,
    backupDestination: read.SA01_BACKUP_DESTINATION,
    backups: {
      roots: read.SA01_BACKUP_ROOTS,
      retention: parseRetention(read.SA01_BACKUP_RETENTION) ?? undefined,
      maxAgeHours: read.SA01_BACKUP_MAX_AGE_HOURS,
      recipients: read.SA01_BACKUP_RECIPIENTS,
      identityFile: read.SA01_BACKUP_IDENTITY_FILE,
      drillChecks: read.SA01_BACKUP_DRILL_CHECKS,
      pgBinDir: read.SA01_PG_BIN_DIR,
    },
    healthConfig: read.SA01_HEALTH_CONFIG,
    healthWebhook: read.SA01_HEALTH_WEBHOOK_URL
      ? { url: read.SA01_HEALTH_WEBHOOK_URL, secret: read.SA01_HEALTH_WEBHOOK_SECRET ?? '' }
      : undefined,
    outbox: { shards: read.SA01_OUTBOX_SHARDS, retentionDays: read.SA01_OUTBOX_RETENTION_DAYS },
    logLevel: read.SA01_LOG_LEVEL,
    shutdownSeconds: read.SA01_SHUTDOWN_SECONDS,
  };
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) Object.values(Object.freeze(value)).forEach(deepFreeze);
  return value;
}
