import { parseArgs } from 'node:util';
import { UsageError } from './parse.ts';

export const RESTORE_USAGE = `npm run restore -- <command> [--destination <url>]

  list                      the backups at the destination, by their manifests; needs no database
  <backup> --into <target>  restores one: a database into an empty one of that name on the server of SA01_DATABASE_URL,
                            a tree into a directory, a Redis dump into a file
    --overwrite               replaces what is in the target
    --without-owners          all belongs to who restores: for servers without a database's roles, and for root, who
                              restores the owners of a tree's files by their numbers; else nobody does
    --globals <file>          of a database's backup: writes the roles of its server to a file instead, as SQL
  catalogue                 writes the rows of orchestrator.backup that are missing, from the manifests alone
  retention                 what retention would keep and remove, and why; removes nothing
  hold <backup> <why>       keeps retention from removing it
  release <backup>          ends that

--destination is file:///directory or s3://bucket/prefix, by default SA01_BACKUP_DESTINATION.`;

export type RestoreCommand =
  | { name: 'list' | 'catalogue' | 'retention' }
  | { name: 'restore'; backup: string; target: RestoreTarget; overwrite: boolean; withoutOwners: boolean }
  | { name: 'hold'; backup: string; why: string }
  | { name: 'release'; backup: string };

export type RestoreTarget = { into: string } | { globals: string };

const options = {
  destination: { type: 'string' },
  into: { type: 'string' },
  globals: { type: 'string' },
  overwrite: { type: 'boolean' },
  'without-owners': { type: 'boolean' },
} as const;

/**
 * What is behind `npm run restore --`.
 * @throws UsageError
 */
export function parseRestore(args: string[]): { command: RestoreCommand; destination: string | undefined } {
  const { positionals, values } = parseOptions(args);
  const { destination, ...own } = values;
  const [name, backup, why, surplus] = positionals;
  if (surplus !== undefined)
    throw new UsageError(`"${surplus}" is one argument too many: quote what has spaces.`);
  const takes = (count: number, what: string) => {
    if (positionals.length !== count) throw new UsageError(`${name} takes ${what}.`);
    const [option] = Object.keys(own);
    if (option !== undefined) throw new UsageError(`--${option} belongs to the restore of a backup.`);
  };
  switch (name) {
    case undefined:
      throw new UsageError('Which command, or which backup?');
    case 'list':
    case 'catalogue':
    case 'retention':
      takes(1, 'no argument');
      return { destination, command: { name } };
    case 'hold':
      takes(3, 'a backup, and why it is kept');
      return { destination, command: { name, backup: backup!, why: why! } };
    case 'release':
      takes(2, 'a backup');
      return { destination, command: { name, backup: backup! } };
    default:
      if (backup !== undefined) throw new UsageError(`There is no command "${name}".`);
      return { destination, command: restoreOf(name, own) };
  }
}

interface RestoreOptions {
  into?: string;
  globals?: string;
  overwrite?: boolean;
  'without-owners'?: boolean;
}

function restoreOf(backup: string, options: RestoreOptions): RestoreCommand {
  const { into, globals, overwrite = false, 'without-owners': withoutOwners = false } = options;
  const how = { overwrite, withoutOwners };
  if (into && !globals) return { name: 'restore', backup, target: { into }, ...how };
  if (globals && !into) return { name: 'restore', backup, target: { globals }, ...how };
  throw new UsageError('A restore needs one of --into and --globals.');
}

function parseOptions(args: string[]) {
  try {
    return parseArgs({ args, allowPositionals: true, options });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}
