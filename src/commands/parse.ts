import { parseArgs } from 'node:util';
import { MAX_OUTBOX_SHARDS } from '../database/deployment.ts';
import type { RepairChoice } from '../domain/outboxRepair.ts';

export const USAGE = `npm run outbox -- <command>

  show                      what Postgres and Kafka know about each shard; changes nothing
  repair <shard> <choice>   mends a shard that has stopped, because the two contradict one another:
    --compare                 looks up in Kafka which rows it has; the others are sent
    --resend                  sends all unsent rows; consumers get twice what Kafka has already
    --mark-delivered          counts the open batch as delivered, and with --before <time>
                              all unsent rows created before it, e.g. 2026-01-31T12:00:00Z
  shards <number>           changes the number of shards, 1 to ${MAX_OUTBOX_SHARDS}, while everything runs
  drain <shard>             waits until the shard is delivered, then pauses it for maintenance`;

export type OutboxCommand =
  | { name: 'show' }
  | { name: 'repair'; shard: number; choice: RepairChoice }
  | { name: 'shards'; shards: number }
  | { name: 'drain'; shard: number };

/** What was typed makes no command; the message is one sentence. */
export class UsageError extends Error {}

/**
 * What is behind `npm run outbox --`. `now` in milliseconds.
 * @throws UsageError
 */
export function parseCommand(args: string[], now: number): OutboxCommand {
  const { positionals, values } = parseOptions(args);
  const [name, argument, surplus] = positionals;
  const [option] = Object.keys(values);
  if (surplus !== undefined) throw new UsageError(`"${surplus}" is one argument too many.`);
  if (name !== 'repair' && option !== undefined) throw new UsageError(`--${option} belongs to repair.`);
  switch (name) {
    case 'show':
      if (argument !== undefined) throw new UsageError('show takes no argument.');
      return { name };
    case 'repair':
      return { name, shard: shardOf(name, argument), choice: parseChoice(values, now) };
    case 'shards':
      return { name, shards: integer('shards needs the new number', argument, 1, MAX_OUTBOX_SHARDS) };
    case 'drain':
      return { name, shard: shardOf(name, argument) };
    default:
      throw new UsageError(name === undefined ? 'Which command?' : `There is no command "${name}".`);
  }
}

const flag = { type: 'boolean' } as const;
const options = {
  resend: flag,
  'mark-delivered': flag,
  compare: flag,
  before: { type: 'string' },
} as const;
type Values = ReturnType<typeof parseArgs<{ options: typeof options }>>['values'];

function parseOptions(args: string[]) {
  try {
    return parseArgs({ args, allowPositionals: true, options });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function parseChoice({ before, ...choices }: Values, now: number): RepairChoice {
  const [kind, ...more] = Object.keys(choices) as RepairChoice['kind'][];
  if (kind === undefined || more.length > 0)
    throw new UsageError('repair needs one of --compare, --resend and --mark-delivered.');
  if (kind === 'mark-delivered')
    return { kind, before: before === undefined ? undefined : pastTime(before, now) };
  if (before !== undefined) throw new UsageError(`--before belongs to --mark-delivered, not to --${kind}.`);
  return { kind };
}

/** With a zone, so that nobody's local time is meant by accident. */
const ISO_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/;

function pastTime(text: string, now: number): Date {
  const time = new Date(text);
  if (ISO_TIME.test(text) && time.getTime() <= now) return time;
  throw new UsageError(`--before is "${text}": expected a time that has passed, like 2026-01-31T12:00:00Z.`);
}

const shardOf = (command: string, text: string | undefined): number =>
  integer(`${command} needs a shard`, text, 0, MAX_OUTBOX_SHARDS - 1);

function integer(sentence: string, text: string | undefined, least: number, most: number): number {
  const number = Number(text);
  if (text !== undefined && /^\d{1,2}$/.test(text) && number >= least && number <= most) return number;
  const got = text === undefined ? '' : `: got "${text}"`;
  throw new UsageError(`${sentence}, an integer from ${least} to ${most}${got}.`);
}
