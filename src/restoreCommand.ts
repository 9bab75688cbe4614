// `npm run restore -- <command>`: what a person does with backups. Lists and restores by manifests alone, so that it
// works where the database is the thing that was lost.
import path from 'node:path';
import { backupSettings } from './backupSettings.ts';
import { type BackupDestination, MANIFEST } from './backups/destination.ts';
import { findVerified, readHold, writeHold } from './backups/holds.ts';
import { openDestination, sourceSlug } from './backups/open.ts';
import { restoreDatabase, restoreFile, restoreTree } from './backups/restore.ts';
import type { BackupSettings } from './backups/settings.ts';
import { UsageError } from './commands/parse.ts';
import { parseRestore, RESTORE_USAGE, type RestoreCommand } from './commands/parseRestore.ts';
import { type Config, ConfigError, readConfig } from './config.ts';
import { readGroups, readRuns, recordFound, setHold } from './database/backups.ts';
import { connect, disconnect, fromPostgres } from './database/postgres.ts';
import type { BackupAddress } from './domain/backupFacts.ts';
import { parseManifest } from './domain/backupManifest.ts';
import { asFound, decideRetention } from './domain/backupRetention.ts';
import type { BackupManifest } from './domain/backups.ts';
import { describeError, OrchestratorError } from './domain/errors.ts';

interface Listed {
  address: BackupAddress;
  manifest: BackupManifest;
  hold: string | null;
}

interface Context {
  config: Config;
  settings: BackupSettings;
  destination: BackupDestination;
  signal: AbortSignal;
}

const say = (line: string) => console.log(line);

/** The backups of a destination, the newest first. One that cannot be read is told and left alone. */
async function listed({ destination, signal }: Pick<Context, 'destination' | 'signal'>): Promise<Listed[]> {
  const backups: Listed[] = [];
  for await (const address of destination.list(signal)) {
    try {
      const manifest = parseManifest((await destination.readNote(address, MANIFEST, signal)) ?? '');
      if (!manifest) throw refused('its manifest is not understood');
      if (!isOwn(address, manifest)) throw refused(`it is a copy of ${manifest.id} under another name`);
      backups.push({ address, manifest, hold: await readHold(destination, address, signal) });
    } catch (error) {
      signal.throwIfAborted();
      console.error(`${address.type}/${address.source}/${address.id}: ${describeError(error)}`);
    }
  }
  return backups.sort((one, other) => (one.manifest.started_at < other.manifest.started_at ? 1 : -1));
}

const isOwn = ({ type, source, id }: BackupAddress, manifest: BackupManifest): boolean =>
  type === manifest.type &&
  source === sourceSlug(manifest.source) &&
  id.startsWith(`${manifest.id}-`) &&
  /^\d+$/.test(id.slice(manifest.id.length + 1));

async function backupAt(context: Pick<Context, 'destination' | 'signal'>, id: string): Promise<Listed> {
  const found = (await listed(context)).find(({ manifest }) => manifest.id === id);
  if (!found) throw refused(`there is no backup ${id} at ${context.destination.url}`);
  return found;
}

async function list(context: Context): Promise<void> {
  const backups = await listed(context);
  for (const { manifest, hold } of backups) {
    const { id, type, source, size, content } = manifest;
    const encrypted = content.recipients.length > 0 ? '  encrypted' : '';
    say(
      `${id}  ${type}  ${source}  ${(size / 1_000_000).toFixed(1)} MB${encrypted}${hold === null ? '' : `  on hold: ${hold}`}`,
    );
  }
  say(`${backups.length} backups at ${context.destination.url}`);
}

async function restore(
  context: Context,
  { backup, target, overwrite, withoutOwners }: Extract<RestoreCommand, { name: 'restore' }>,
): Promise<void> {
  const { config, settings, destination, signal } = context;
  const { address, manifest } = await backupAt(context, backup);
  const order = { destination, address, content: manifest.content, settings };
  if ('globals' in target) {
    await restoreFile(order, { name: 'globals', file: path.resolve(target.globals), overwrite }, signal);
  } else if (address.type === 'database') {
    const url = Object.assign(new URL(config.databaseUrl), {
      pathname: `/${encodeURIComponent(target.into)}`,
    });
    await restoreDatabase(order, { url: url.href, overwrite, withoutOwners }, signal);
  } else if (address.type === 'redis') {
    await restoreFile(order, { file: path.resolve(target.into), overwrite }, signal);
  } else {
    await restoreTree(order, { directory: path.resolve(target.into), overwrite, withoutOwners }, signal);
  }
  say(`${manifest.id} of ${manifest.type} ${manifest.source} is restored`);
}

const refused = (message: string): OrchestratorError => new OrchestratorError('command_refused', message);

async function onDatabase(
  { config }: Pick<Context, 'config'>,
  work: (client: Awaited<ReturnType<typeof connect>>) => Promise<void>,
): Promise<void> {
  const client = await connect(config.databaseUrl);
  try {
    await work(client);
  } catch (error) {
    throw fromPostgres(error);
  } finally {
    await disconnect(client);
  }
}

/** Rows that are there stay as they are, also those of backups that retention removes just now. */
async function writeCatalogue(context: Context): Promise<void> {
  const { url } = context.destination;
  const backups = await listed(context);
  let written = 0;
  await onDatabase(context, async (client) => {
    for (const { address, manifest, hold } of backups) {
      // Where it was found, which may be a copy of where it was made.
      const isNew = await recordFound(client, { ...manifest, destination: url }, address, hold);
      if (isNew) written += 1;
      else console.error(`${manifest.id}: its key belongs to another backup of the catalogue`);
    }
  });
  say(`${written} backups of ${url} are in the catalogue`);
}

async function showRetention(context: Context): Promise<void> {
  const { config, settings, signal } = context;
  const { retention } = config.backups;
  if (!retention) return say('SA01_BACKUP_RETENTION is all: nothing is ever removed');
  await onDatabase(context, async (client) => {
    for (const group of await readGroups(client)) {
      say(`${group.type} ${group.source} at ${group.destination}`);
      const runs = await readRuns(client, group);
      const destination = await openDestination(group.destination, settings);
      const { found, gone } = await findVerified(destination, runs, signal);
      for (const id of gone) say(`  is gone  ${id}`);
      for (const { id, keep, reasons } of decideRetention(asFound(runs, found), retention))
        say(`  ${keep ? 'keeps  ' : 'removes'}  ${id}  ${reasons.join(', ')}`);
    }
  });
}

/** First where it lies, which outlasts the catalogue. Where retention was quicker, the row says so. */
async function hold(context: Context, id: string, why: string | null): Promise<void> {
  const { address } = await backupAt(context, id);
  await writeHold(context.destination, address, why, context.signal);
  await onDatabase(context, (client) => setHold(client, id, why));
}

async function run(command: RestoreCommand, context: Context): Promise<void> {
  switch (command.name) {
    case 'list':
      return list(context);
    case 'restore':
      return restore(context, command);
    case 'catalogue':
      return writeCatalogue(context);
    case 'retention':
      return showRetention(context);
    case 'hold':
      return hold(context, command.backup, command.why);
    case 'release':
      return hold(context, command.backup, null);
  }
}

async function main(): Promise<void> {
  const { command, destination: asked } = parseRestore(process.argv.slice(2));
  const config = readConfig(process.env);
  const url = asked ?? config.backupDestination;
  if (!url)
    throw new UsageError('Where are the backups? Set SA01_BACKUP_DESTINATION, or give --destination.');
  // A person may read backups from anywhere; what may be written by tasks is another matter.
  const settings = backupSettings({ ...config, backupDestination: url });
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort());
  const destination = await openDestination(url, settings);
  await run(command, { config, settings, destination, signal: stop.signal });
}

function report(error: unknown): number {
  if (error instanceof UsageError) console.error(`${error.message}\n\n${RESTORE_USAGE}`);
  else console.error(error instanceof ConfigError ? error.message : describeError(error));
  return error instanceof UsageError || error instanceof ConfigError ? 2 : 1;
}

main()
  .then(() => 0, report)
  .then((code) => process.exit(code));
