import { Readable } from 'node:stream';
import type { SourceFacts } from '../domain/backupFacts.ts';
import { OrchestratorError } from '../domain/errors.ts';
import { refused } from './names.ts';
import { RunningProgram, requireAtLeast, versionOf } from './programs.ts';
import type { BackupSource, KeepFile } from './source.ts';

/** What src/database does for backups. */
export interface DatabaseTools {
  holdSnapshot(url: string, signal: AbortSignal): Promise<Snapshot>;
  countRows(url: string, signal: AbortSignal): Promise<Record<string, number>>;
  isEmptyDatabase(url: string): Promise<boolean>;
}

interface Snapshot {
  id: string;
  serverVersion: string;
  unreadable: string[];
  countRows(): Promise<Record<string, number>>;
  release(): Promise<void>;
}

export interface DatabaseOptions {
  name: string;
  url: string;
  binDir: string | undefined;
  tools: DatabaseTools;
}

/**
 * One database by pg_dump, and what pg_dump leaves out (roles, tablespaces) by pg_dumpall, without passwords. The rows
 * are counted in the snapshot that is dumped, so a restore must have exactly as many.
 */
export class DatabaseSource implements BackupSource {
  readonly type = 'database';
  readonly name: string;
  private readonly options: DatabaseOptions;

  constructor(options: DatabaseOptions) {
    this.options = options;
    this.name = options.name;
  }

  async read(keep: KeepFile, signal: AbortSignal): Promise<SourceFacts> {
    const { url, binDir, tools } = this.options;
    const version = await versionOf('pg_dump', binDir, signal);
    const snapshot = await tools.holdSnapshot(url, signal);
    try {
      requireAtLeast('pg_dump', version, 'the server', snapshot.serverVersion);
      requireReadable(snapshot.unreadable);
      const rows = await this.dump(snapshot, keep, signal);
      const notes = await this.globals(keep, signal);
      return { versions: { server: snapshot.serverVersion, pg_dump: version }, rows, notes };
    } finally {
      await snapshot.release();
    }
  }

  /** Dumps and counts at once. If the counting fails the snapshot is gone, and that is the dump's failure too. */
  private async dump(
    snapshot: Snapshot,
    keep: KeepFile,
    signal: AbortSignal,
  ): Promise<Record<string, number>> {
    let lost: unknown;
    const counting = snapshot.countRows();
    counting.catch((error) => {
      lost = error;
    });
    try {
      await keep('data', this.run('pg_dump', dumpArgs(snapshot.id), signal));
    } catch (error) {
      throw lost ?? error;
    }
    return counting;
  }

  /** Not every role may read what all databases share, and a backup without it is still one. */
  private async globals(keep: KeepFile, signal: AbortSignal): Promise<string[]> {
    try {
      const { url } = this.options;
      await keep('globals', this.run('pg_dumpall', globalsArgs(url), signal));
      return ['Roles are without their passwords.'];
    } catch (error) {
      const forbidden = error instanceof OrchestratorError && /permission denied/.test(error.message);
      if (!forbidden) throw error;
      return [`No roles and tablespaces: ${error.message}`];
    }
  }

  private run(program: 'pg_dump' | 'pg_dumpall', args: string[], signal: AbortSignal): Readable {
    const { url, binDir } = this.options;
    const running = new RunningProgram({ program, args, url, binDir, signal });
    running.stdin.end();
    return Readable.from(running.output(), { objectMode: false });
  }
}

/** Not compressed: what follows does that, faster and better. */
const dumpArgs = (snapshot: string): string[] => [
  '--format=custom',
  '--compress=0',
  '--no-password',
  '--lock-wait-timeout=10min',
  `--snapshot=${snapshot}`,
];

/** It connects to `postgres` unless it is told of another, and takes no name with "=" for a mere name. */
function globalsArgs(url: string): string[] {
  const name = decodeURIComponent(new URL(url).pathname.slice(1));
  const database = /[=:]/.test(name) ? [] : [`--database=${name}`];
  return ['--globals-only', '--no-role-passwords', '--no-password', ...database];
}

function requireReadable(unreadable: string[]): void {
  if (unreadable.length === 0) return;
  const named = unreadable.slice(0, 5).join(', ');
  const more = unreadable.length > 5 ? ` and ${unreadable.length - 5} more` : '';
  throw refused(`permission denied: the role of the backup may not read all rows of ${named}${more}`);
}
