// `npm run restore -- <command>`: what a person does with backups. Lists and restores by manifests alone, so that it
// works where the database is the thing that was lost.
import path from 'node:path';
import { backupSettings } from './backupSettings.ts';
import type { BackupDestination } from './backups/destination.ts';
import { openDestination } from './backups/open.ts';
import { restoreDatabase, restoreFile, restoreTree } from './backups/restore.ts';
import type { BackupSettings } from './backups/settings.ts';
import { UsageError } from './commands/parse.ts';
import { parseRestore, RESTORE_USAGE, type RestoreCommand } from './commands/parseRestore.ts';
import { type Config, ConfigError, readConfig } from './config.ts';
import { readGroups, readRuns, recordVerified, setHold } from './database/backups.ts';
import { connect, disconnect, fromPostgres } from './database/postgres.ts';
import type { BackupAddress } from './domain/backupFacts.ts';
import { decideRetention } from './domain/backupRetention.ts';
import { type BackupManifest, parseManifest } from './domain/backups.ts';
import { describeError, OrchestratorError } from './domain/errors.ts';

interface Listed {
  address: BackupAddress;
  manifest: BackupManifest;
}

interface Context {
  config: Config;
  settings: BackupSettings;
  destination: BackupDestination;
  signal: AbortSignal;
}

const say = (line: string) => console.log(line);

/** The backups of a destination, the newest first. A manifest that is none is told and left alone. */
async function listed({ destination, signal }: Context): Promise<Listed[]> {
  const backups: Listed[] = [];
  for await (const { address, manifest: text } of destination.list(signal)) {
    const manifest = parseManifest(text);
    if (manifest) backups.push({ address, manifest });
    else console.error(`${address.type}/${address.source}/${address.id}: its manifest is not understood`);
  }
  return backups.sort((one, other) => (one.manifest.started_at < other.manifest.started_at ? 1 : -1));
}

async function list(context: Context): Promise<void> {
  const backups = await listed(context);
  for (const { manifest } of backups) {
    const { id, type, source, size, content } = manifest;
    const encrypted = content.recipients.length > 0 ? '  encrypted' : '';
    say(`${id}  ${type}  ${source}  ${(size / 1_000_000).toFixed(1)} MB${encrypted}`);
  }
  say(`${backups.length} backups at ${context.destination.url}`);
}

async function restore(
  context: Context,
  { backup, target, overwrite }: Extract<RestoreCommand, { name: 'restore' }>,
): Promise<void> {
  const { config, settings, destination, signal } = context;
  const found = (await listed(context)).find(({ manifest }) => manifest.id === backup);
  if (!found) throw refused(`there is no backup ${backup} at ${destination.url}`);
  const { address, manifest } = found;
  const order = { destination, address, content: manifest.content, settings };
  if ('globals' in target) {
    await restoreFile(order, { name: 'globals', file: path.resolve(target.globals), overwrite }, signal);
  } else if (address.type === 'database') {
    const url = Object.assign(new URL(config.databaseUrl), {
      pathname: `/${encodeURIComponent(target.into)}`,
    });
    await restoreDatabase(order, { url: url.href, overwrite }, signal);
  } else if (address.type === 'redis') {
    await restoreFile(order, { file: path.resolve(target.into), overwrite }, signal);
  } else {
    await restoreTree(order, { directory: path.resolve(target.into), overwrite }, signal);
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
  const backups = await listed(context);
  await onDatabase(context, async (client) => {
    for (const { address, manifest } of backups) await recordVerified(client, manifest, address);
  });
  say(`${backups.length} backups of ${context.destination.url} are in the catalogue`);
}

async function showRetention(context: Context): Promise<void> {
  const { retention } = context.config.backups;
  if (!retention) return say('SA01_BACKUP_RETENTION is all: nothing is ever removed');
  await onDatabase(context, async (client) => {
    for (const group of await readGroups(client)) {
      say(`${group.type} ${group.source} at ${group.destination}`);
      for (const { id, keep, reasons } of decideRetention(await readRuns(client, group), retention))
        say(`  ${keep ? 'keeps  ' : 'removes'}  ${id}  ${reasons.join(', ')}`);
    }
  });
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
      return onDatabase(context, (client) => setHold(client, command.backup, command.why));
    case 'release':
      return onDatabase(context, (client) => setHold(client, command.backup, null));
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
