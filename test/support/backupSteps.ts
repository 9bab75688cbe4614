// The steps of a backup, how a worker is held at each, and what is to be seen then.
import {
  type DestinationCall,
  type Hold,
  type HoldingPlace,
  holdAnswer,
  holdRows,
  holdTable,
} from './backupHolds.ts';
import type { TestDatabase } from './database.ts';
import { unfinished } from './storage.ts';

export interface HoldableWorld {
  database: TestDatabase;
  place: HoldingPlace;
}

export interface Step {
  name: string;
  hold(world: HoldableWorld): Hold | Promise<Hold>;
  /** Which activity Temporal knows to be under way, and what the rows of this backup and of the oldest one say. */
  activity: string;
  row?: string;
  oldest?: string;
  /** What lies at the destination of the try under way, and of the one before it; of a directory also `onDisk`. */
  files?: string[];
  onDisk?: string[];
  /** What lies there of the oldest backup; all of it unless this says otherwise. */
  old?: string[];
  /** pg_dump must be seen. */
  dumps?: boolean;
}

export const WHOLE = ['data', 'globals', 'manifest.json'];

const at =
  (when: DestinationCall['when'], call: DestinationCall['call'], file: string) =>
  ({ place }: HoldableWorld): Hold =>
    place.hold({ when, call, file });

/** In the order in which a backup comes by them. Those of `makeBackup` each begin another try. */
export const backupSteps: Step[] = [
  {
    name: 'its source is chosen',
    hold: ({ database }) => holdRows(database, 'INSERT running'),
    activity: 'beginBackup',
    row: 'none',
  },
  {
    name: 'the dump is under way',
    hold: ({ database }) => holdTable(database, 'notes'),
    activity: 'makeBackup',
    onDisk: [unfinished('data')],
    dumps: true,
  },
  {
    name: 'its parts go up',
    hold: at('before', 'write', 'data'),
    activity: 'makeBackup',
    files: [unfinished('data')],
  },
  {
    name: 'all parts are there, and not its name',
    hold: at('before', 'name', 'data'),
    activity: 'makeBackup',
    files: [unfinished('data')],
  },
  {
    name: 'the data has its name',
    hold: at('after', 'name', 'data'),
    activity: 'makeBackup',
    files: ['data'],
  },
  {
    name: 'it is read back',
    hold: at('before', 'read', 'data'),
    activity: 'makeBackup',
    files: ['data', 'globals'],
  },
  {
    name: 'what the try before left is removed',
    hold: at('before', 'remove', 'data|globals'),
    activity: 'makeBackup',
    files: ['before/data', 'before/globals'],
  },
  {
    name: 'its manifest is written',
    hold: at('before', 'name', 'manifest.json'),
    activity: 'commitBackup',
    files: ['data', 'globals'],
    onDisk: [unfinished('manifest.json')],
  },
  {
    name: 'its manifest is there, and not in its row',
    hold: ({ database }) => holdRows(database, 'INSERT verified'),
    activity: 'commitBackup',
    files: WHOLE,
  },
  {
    name: 'its row says so, and Temporal has not heard',
    hold: ({ database }) => holdAnswer(database),
    activity: 'commitBackup',
    row: 'verified',
    files: WHOLE,
  },
  {
    name: 'retention begins to remove',
    hold: at('before', 'remove', 'manifest.json'),
    activity: 'applyRetention',
    row: 'verified',
    oldest: 'removing',
    files: WHOLE,
  },
  {
    name: 'half of the oldest is removed',
    hold: at('after', 'remove', 'manifest.json'),
    activity: 'applyRetention',
    row: 'verified',
    oldest: 'removing',
    files: WHOLE,
    old: ['data', 'globals'],
  },
  {
    name: 'the oldest is removed, and its row says nothing of it',
    hold: ({ database }) => holdRows(database, 'UPDATE removed'),
    activity: 'applyRetention',
    row: 'verified',
    oldest: 'removing',
    files: WHOLE,
    old: [],
  },
  {
    name: 'what others left is cleared away',
    hold: at('before', 'remove', 'data'),
    activity: 'applyRetention',
    row: 'verified',
    oldest: 'removed',
    files: WHOLE,
    old: [],
  },
];
