// Looks into a backup's content while it passes by: is it what it should be, and is it whole?
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { extract } from 'tar-stream';
import type { BackupFile, BackupType } from '../domain/backupFacts.ts';
import { OrchestratorError } from '../domain/errors.ts';
import type { Stage } from './coding.ts';
import { entryParts } from './entryNames.ts';
import { failed } from './names.ts';
import { RunningProgram } from './programs.ts';
import { RdbCheck } from './rdb.ts';

/** What an inspection found. */
export interface Findings {
  /** Entries of an archive's table of contents. */
  entries?: number;
  notes?: string[];
}

interface Inspector {
  /** Resolves when more may come. */
  add(chunk: Uint8Array): Promise<void> | void;
  /** @throws OrchestratorError backup_failed if it is not what it should be */
  end(): Promise<Findings> | Findings;
}

export interface InspectionOptions {
  type: BackupType;
  file: BackupFile;
  binDir: string | undefined;
  signal: AbortSignal;
}

/** Passes everything on; `found` hears what the inspection found, before the stream ends. A bad content ends it with an error. */
export function inspection(options: InspectionOptions, found: (findings: Findings) => void): Stage {
  return async function* (bytes) {
    const inspector = inspectorFor(options);
    for await (const chunk of bytes) {
      await inspector.add(chunk);
      yield chunk;
    }
    found(await inspector.end());
  };
}

function inspectorFor(options: InspectionOptions): Inspector {
  if (options.file === 'globals') return globalsInspector();
  switch (options.type) {
    case 'database':
      return archiveInspector(options);
    case 'redis':
      return rdbInspector();
    case 'files':
    case 'storage':
      return tarInspector();
  }
}

/**
 * pg_restore lists the table of contents, which stands first, and reads no more than that; another one reads all the
 * data, as a restore does, because a dump that was cut off has the table of contents of a whole one.
 */
function archiveInspector({ binDir, signal }: InspectionOptions): Inspector {
  const pgRestore = (arg: string) =>
    new RunningProgram({ program: 'pg_restore', args: [arg], binDir, signal });
  const listing = pgRestore('--list');
  const reading = pgRestore('--file=/dev/null');
  const entries = countEntries(listing.output());
  const read = drain(reading.output());
  for (const result of [entries, read]) result.catch(() => {});
  return {
    async add(chunk) {
      for (const { stdin } of [listing, reading])
        if (stdin.writable && !stdin.write(chunk)) await untilDrained(stdin);
    },
    async end() {
      for (const { stdin } of [listing, reading]) stdin.end();
      const [counted] = await Promise.all([entries, read]);
      return { entries: counted };
    },
  };
}

/** The lines that are neither empty nor a comment. */
async function countEntries(listing: AsyncIterable<Buffer>): Promise<number> {
  let entries = 0;
  for await (const line of createInterface({ input: Readable.from(listing, { objectMode: false }) }))
    if (line !== '' && !line.startsWith(';')) entries++;
  return entries;
}

async function drain(bytes: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const _ of bytes);
}

const untilDrained = (stream: NodeJS.EventEmitter): Promise<unknown> => {
  const over = new AbortController();
  const { signal } = over;
  return Promise.race([once(stream, 'drain', { signal }), once(stream, 'close', { signal })])
    .catch(() => {})
    .finally(() => over.abort());
};

/** Reads the whole archive as a restore would, which could not make files of all names. */
function tarInspector(): Inspector {
  const archive = extract();
  let entries = 0;
  archive.on('entry', ({ name }, content, next) => {
    entries++;
    // What ends the archive ends its content too, and the archive tells it.
    content.on('error', () => {});
    content.on('end', next).resume();
    try {
      entryParts(name);
    } catch (error) {
      archive.destroy(error as Error);
    }
  });
  const ended = finished(archive);
  ended.catch(() => {});
  return {
    async add(chunk) {
      if (!archive.destroyed && !archive.write(chunk)) await untilDrained(archive);
    },
    async end() {
      archive.end(undefined);
      await ended.catch((error) => {
        if (error instanceof OrchestratorError) throw error;
        throw failed(`the tar cannot be read: ${error.message}`, { cause: error });
      });
      return { entries };
    },
  };
}

function rdbInspector(): Inspector {
  const check = new RdbCheck();
  return {
    add: (chunk) => check.add(chunk),
    end() {
      const { hasChecksum } = check.end();
      return hasChecksum
        ? {}
        : { notes: ['The server writes its dumps without a checksum (rdbchecksum no).'] };
    },
  };
}

const GLOBALS_END = 'PostgreSQL database cluster dump complete';

function globalsInspector(): Inspector {
  let end = '';
  return {
    add(chunk) {
      end = (end + Buffer.from(chunk).toString('latin1')).slice(-200);
    },
    end() {
      if (!end.includes(GLOBALS_END)) throw failed('what pg_dumpall wrote has no end');
      return {};
    },
  };
}
