import type { BackupAddress } from '../domain/backupFacts.ts';
import type { BackupRun } from '../domain/backupRetention.ts';
import { type BackupDestination, HOLD, MANIFEST } from './destination.ts';

/** Which of these backups are there, by id, and why a person wants them kept; null: nobody does. */
export async function readHolds(
  destination: BackupDestination,
  backups: { id: string; address: BackupAddress | null }[],
  signal: AbortSignal,
): Promise<Map<string, string | null>> {
  const holds = new Map<string, string | null>();
  for (const { id, address } of backups) {
    if (!address || (await destination.readNote(address, MANIFEST, signal)) === undefined) continue;
    holds.set(id, await readHold(destination, address, signal));
  }
  return holds;
}

/** Of the catalogue's verified backups: those that are at the destination, with their holds there, and those that are gone. */
export async function findVerified(
  destination: BackupDestination,
  runs: (BackupRun & { address: BackupAddress | null })[],
  signal: AbortSignal,
): Promise<{ found: Map<string, string | null>; gone: string[] }> {
  const verified = runs.filter(({ state }) => state === 'verified');
  const found = await readHolds(destination, verified, signal);
  return { found, gone: verified.map(({ id }) => id).filter((id) => !found.has(id)) };
}

/** Why a person wants it kept; null: nobody does. Beside the manifest it outlasts the catalogue. */
export const readHold = async (
  destination: BackupDestination,
  address: BackupAddress,
  signal: AbortSignal,
): Promise<string | null> => (await destination.readNote(address, HOLD, signal)) || null;

export const writeHold = (
  destination: BackupDestination,
  address: BackupAddress,
  why: string | null,
  signal: AbortSignal,
): Promise<void> => destination.writeNote(address, HOLD, why ?? '', signal);
