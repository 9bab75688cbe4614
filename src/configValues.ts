// What the values of variables may be.
import { z } from 'zod';
import { parseRetention } from './domain/backupRetention.ts';

// Each schema's description is the second half of its sentence: "… : expected <description>".

export const urlOf = (protocols: string[], expected: string, complete: (url: URL) => boolean = () => true) =>
  z
    .string()
    .refine((text) => {
      const url = URL.parse(text);
      return url !== null && protocols.includes(url.protocol) && complete(url);
    })
    .describe(expected);

export const httpUrl = urlOf(['http:', 'https:'], 'an http:// or https:// URL');

export const integer = (least: number, most: number) =>
  z
    .string()
    .regex(/^\d{1,9}$/)
    .transform(Number)
    .refine((number) => number >= least && number <= most)
    .describe(`an integer from ${least} to ${most}`);

export const oneOf = <T extends string>(values: readonly [T, ...T[]]) =>
  z.enum(values).describe(`one of ${values.join(', ')}`);

export const text = (expected: string) => z.string().describe(expected);

export interface Address {
  host: string;
  port: number;
}

export function parseAddress(address: string): Address | undefined {
  const [, ipv6, name, digits] = /^(?:\[([0-9a-f:.]+)\]|([\w.-]+)):(\d{1,5})$/i.exec(address) ?? [];
  const port = Number(digits);
  return port >= 1 && port <= 65_535 ? { host: ipv6 ?? name ?? '', port } : undefined;
}

const isAddress = (address: string) => parseAddress(address) !== undefined;
export const address = z
  .string()
  .refine(isAddress)
  .describe('host:port with a port from 1 to 65535 (an IPv6 host in brackets)');

export const brokers = z
  .string()
  .transform((list) => list.split(',').map((broker) => broker.trim()))
  .refine((list) => list.every(isAddress))
  .describe('a comma-separated list of host:port, each port from 1 to 65535');

// Kafka allows 249 characters; the topic's dead letter queue needs four of them for ".dlq".
export const topic = z
  .string()
  .regex(/^(?!\.{1,2}$)[a-zA-Z0-9._-]{1,245}$/)
  .describe('a Kafka topic name of at most 245 letters, digits, dots, underscores or hyphens');

const isPath = (text: string) => /^\/[^\0]*$/.test(text) && !text.split('/').includes('..');
export const directories = z
  .string()
  .transform((list) => list.split(',').map((directory) => directory.trim()))
  .refine((list) => list.every(isPath))
  .describe('a comma-separated list of absolute paths');

export const recipients = z
  .string()
  .transform((list) => list.split(',').map((recipient) => recipient.trim()))
  .refine((list) => list.every((recipient) => /^age1[a-z0-9]{50,4000}$/.test(recipient)))
  .describe('a comma-separated list of age recipients (age1…)');

export const retention = z
  .string()
  .refine((text) => parseRetention(text) !== null)
  .describe(
    'all, or terms such as last=3,daily=7,weekly=4,monthly=12,yearly=5,within=30,minimum=2 that keep something',
  );

const MAX_CHECKS = 100;
const isCheckName = (name: string) => /^[^\p{Cc}]{1,100}$/u.test(name);
const isCheckSql = (sql: unknown) =>
  typeof sql === 'string' && sql.trim().length > 0 && sql.length <= 10_000 && !sql.includes('\0');

const parseChecks = (json: string): Record<string, unknown> => {
  try {
    const parsed: unknown = JSON.parse(json);
    return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed) ? { ...parsed } : {};
  } catch {
    return {};
  }
};

export const drillChecks = z
  .string()
  .transform((json) => Object.entries(parseChecks(json)))
  .refine((checks) => checks.length > 0 && checks.length <= MAX_CHECKS)
  .refine((checks) => checks.every(([name, sql]) => isCheckName(name) && isCheckSql(sql)))
  .transform((checks) => checks.map(([name, sql]) => ({ name, sql: sql as string })))
  .describe(
    `a JSON object of 1 to ${MAX_CHECKS} checks, each a name with its SQL, such as {"has tenants": "SELECT count(*) > 0 FROM tenant"}`,
  );

const isSource = (prefix: string) => {
  const url = URL.parse(prefix);
  return url !== null && !/[@?#]/.test(prefix) && /^(https?|s3):\/\/[^/].*\/$/.test(url.href);
};

export const sources = z
  .string()
  .transform((list) => list.split(',').map((prefix) => prefix.trim()))
  .refine((list) => list.every(isSource))
  // As references are compared.
  .transform((list) => list.map((prefix) => new URL(prefix).href))
  .describe('a comma-separated list of http://, https:// or s3:// prefixes, each ending with a slash');
