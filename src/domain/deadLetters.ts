import { shown } from './storable.ts';
import { UUID } from './uuid.ts';

/** What `deadLetterReplay` takes. Nothing is needed: without any of it, all unresolved letters are replayed. */
export interface DeadLetterReplayInput {
  /** Only letters of this original topic. */
  topic?: string;
  /** Only these letters (`core_deadlettermessage.id`). */
  ids?: string[];
  /** Only letters made at or after this moment, ISO 8601. */
  from?: string;
  /** Only letters made before this moment, ISO 8601. */
  to?: string;
  /** At most so many, the oldest first. */
  limit?: number;
  /** Says what would be done, and does nothing. */
  dryRun?: boolean;
  /** Resolves the letters without sending them again. */
  resolveOnly?: boolean;
  /** Who stands in `resolved_by`; the workflow's id unless said. At most 255 characters. */
  resolvedBy?: string;
  /** Goes into `resolution_notes`. */
  notes?: string;
  /** What an earlier run left; not for people. */
  progress?: ReplayProgress;
}

export interface LetterSelection {
  topic: string | undefined;
  ids: string[] | undefined;
  from: string | undefined;
  to: string | undefined;
}

/** The place of a letter in the order of replay: by the order of insertion of the original messages. */
export interface ReplayCursor {
  seq: string;
  createdAt: string;
  id: string;
}

export interface ReplayProgress {
  /** The last letter that was put back; null before the first. */
  cursor: ReplayCursor | null;
  replayed: number;
  resolved: number;
  failed: number;
}

export const replayStart: ReplayProgress = { cursor: null, replayed: 0, resolved: 0, failed: 0 };

/** A letter and the outbox row by which it is sent again. */
export interface Replay {
  letterId: string;
  messageId: string;
}

/** A page of letters that were put back into the outbox. */
export interface PutBack {
  replays: Replay[];
  /** Letters whose message cannot be sent. */
  refused: number;
  /** Behind the last of both. */
  cursor: ReplayCursor | null;
}

export interface LetterPreview {
  found: number;
  /** How many of each topic and error type, the largest first. */
  groups: { topic: string; error_type: string | null; letters: number }[];
  /** The first of them. */
  ids: string[];
}

/**
 *   replaying ──▶ done            dryRun: previewing ──▶ done
 *       │                         resolveOnly: resolving ──▶ done
 *       └── cancelled: what was put back is delivered all the same, and resolved by the next replay
 */
export type DeadLetterReplayState = 'previewing' | 'resolving' | 'replaying' | 'cancelled' | 'done';

/** `deadLetterReplay`'s answer to the query `status`, and its result. */
export interface DeadLetterReplayStatus {
  state: DeadLetterReplayState;
  dry_run: boolean;
  /** Letters that matched, of a dry run. */
  preview: LetterPreview | null;
  /** Letters that were put back into the outbox. */
  replayed: number;
  /** Letters that are resolved, by their delivery or without one. */
  resolved: number;
  /** Letters whose message cannot be sent, or was refused again until no attempt was left. */
  failed: number;
}

/** They are in the history of the workflow, once for each page. */
const MAX_IDS = 1_000;

const isText = (value: unknown, most: number): boolean =>
  typeof value === 'string' && value !== '' && value.length <= most && !value.includes('\0');
const isFlag = (value: unknown): boolean => typeof value === 'boolean';

const MOMENT = /^([1-9]\d{3}-\d\d-\d\d)T\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-](0\d|1[0-4]):[0-5]\d)$/;
const MOMENT_EXPECTED = 'a moment with its offset, such as 2026-01-31T12:00:00Z';

/** Postgres has to understand it as well: it knows no 30 February, which Date takes for the 2 March. */
function isMoment(value: unknown): boolean {
  if (typeof value !== 'string') return false;
  const [, day] = MOMENT.exec(value) ?? [];
  if (day === undefined || Number.isNaN(Date.parse(value))) return false;
  return new Date(Date.parse(day)).toISOString().startsWith(day);
}

const FIELDS: Record<keyof DeadLetterReplayInput, [isGood: (value: unknown) => boolean, expected: string]> = {
  topic: [(value) => isText(value, 255), 'the name of a topic'],
  ids: [
    (value) =>
      Array.isArray(value) &&
      value.length > 0 &&
      value.length <= MAX_IDS &&
      value.every((id) => typeof id === 'string' && UUID.test(id)),
    `1 to ${MAX_IDS} ids of core_deadlettermessage`,
  ],
  from: [isMoment, MOMENT_EXPECTED],
  to: [isMoment, MOMENT_EXPECTED],
  limit: [(value) => Number.isSafeInteger(value) && (value as number) > 0, 'a whole number from 1 on'],
  dryRun: [isFlag, 'true or false'],
  resolveOnly: [isFlag, 'true or false'],
  resolvedBy: [(value) => isText(value, 255), 'a name of 1 to 255 characters'],
  notes: [(value) => isText(value, 10_000), 'a text of 1 to 10000 characters'],
  progress: [isProgress, 'what an earlier run left: for a start leave it out'],
};

/** One sentence for each field at fault; none if the input is good. */
export function replayInputFaults(input: unknown): string[] {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    return [`deadLetterReplay takes no input, or an object: got ${shown(input)}`];
  }
  return Object.entries(input).flatMap(([name, value]) => {
    const field = Object.hasOwn(FIELDS, name) ? FIELDS[name as keyof DeadLetterReplayInput] : undefined;
    if (!field) return [`${name} is no field: expected ${Object.keys(FIELDS).slice(0, -1).join(', ')}`];
    const [isGood, expected] = field;
    return value == null || isGood(value) ? [] : [`${name} must be ${expected}: got ${shown(value)}`];
  });
}

function isProgress(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { cursor, replayed, resolved, failed } = value as ReplayProgress;
  const counts = [replayed, resolved, failed].every((count) => Number.isInteger(count));
  return counts && (cursor === null || isCursor(cursor));
}

function isCursor(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { seq, createdAt, id } = value as Record<string, unknown>;
  const parts: [unknown, RegExp][] = [
    [seq, /^-?\d{1,18}$/],
    [createdAt, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/],
    [id, UUID],
  ];
  return parts.every(([part, form]) => typeof part === 'string' && form.test(part));
}
