import type { BackupAddress, StoredFile } from '../domain/backupFacts.ts';
import { type BackupDestination, MANIFEST } from './destination.ts';
import { addressPath, failed, refused } from './names.ts';

/**
 * Writes the manifest of files that lie there: from now on the backup exists. The same again changes nothing.
 * @throws OrchestratorError backup_refused if there is another manifest, or if not all of the files are there; backup_failed
 */
export async function commitManifest(
  destination: BackupDestination,
  address: BackupAddress,
  { manifest, files }: { manifest: string; files: readonly Pick<StoredFile, 'name' | 'size'>[] },
  signal: AbortSignal,
): Promise<void> {
  const fault = () => missingFile(destination, address, files, signal);
  const before = await fault();
  if (before) throw refused(before);
  const existing = await destination.readNote(address, MANIFEST, signal);
  if (existing !== undefined && existing !== manifest)
    throw refused(`${addressPath(address)} has another manifest already`);
  if (existing === undefined) await destination.writeNote(address, MANIFEST, manifest, signal);
  if ((await destination.readNote(address, MANIFEST, signal)) !== manifest)
    throw failed('the manifest reads back as something else');
  // Somebody may have removed them meanwhile.
  const after = await fault();
  if (!after) return;
  await destination.remove(address, signal);
  throw refused(after);
}

/** One sentence if not all is there. */
async function missingFile(
  destination: BackupDestination,
  address: BackupAddress,
  files: readonly Pick<StoredFile, 'name' | 'size'>[],
  signal: AbortSignal,
): Promise<string | undefined> {
  for (const { name, size } of files) {
    const found = await destination.size(address, name, signal);
    if (found === size) continue;
    const how = found === undefined ? 'is not there' : `has ${found} bytes instead of ${size}`;
    return `${destination.url}: ${addressPath(address)}/${name} ${how}: somebody removed it, or not all workers share this destination`;
  }
  return undefined;
}
