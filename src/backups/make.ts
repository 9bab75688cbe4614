// Makes one backup, all but its manifest:
//
//   source ─▶ inspected, summed ─▶ compressed ─▶ encrypted ─▶ summed ─▶ destination
//                                                                          │
//   source's SHA-256 ◀─ decompressed ◀─ decrypted ◀─ stored SHA-256 ◀──────┘  read back
import { PassThrough, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type {
  BackupAddress,
  BackupContent,
  BackupFile,
  SourceFacts,
  StoredFile,
} from '../domain/backupFacts.ts';
import { OrchestratorError } from '../domain/errors.ts';
import { canDecrypt, checked, compressor, encryption, Meter } from './coding.ts';
import type { BackupDestination } from './destination.ts';
import { type Findings, inspection } from './inspection.ts';
import { asFailure, failed } from './names.ts';
import { openPlain } from './plain.ts';
import type { BackupSettings } from './settings.ts';
import type { BackupSource } from './source.ts';

const CLEAN_UP_WITHIN_MS = 30_000;

export interface BackupOrder {
  source: BackupSource;
  destination: BackupDestination;
  address: BackupAddress;
  settings: Pick<BackupSettings, 'compression' | 'recipients' | 'identity' | 'pgBinDir'>;
}

export interface MakeOptions {
  signal: AbortSignal;
  /** Bytes of this stage so far: of the source, then of the destination. Called for every piece. */
  onProgress?: (progress: { stage: 'reading' | 'verifying'; bytes: number }) => void;
}

/**
 * Reads the source, writes it to the destination and verifies it there: what was read is whole, and what was written
 * reads back with the same SHA-256. It becomes a backup when the caller commits its manifest.
 *
 * A failure removes what was written. An abort stops all programs and connections first; its reason is thrown.
 * @throws OrchestratorError backup_failed, backup_refused, postgres_unavailable, postgres_refused
 */
export async function makeBackup(order: BackupOrder, options: MakeOptions): Promise<BackupContent> {
  const over = new AbortController();
  const signal = AbortSignal.any([options.signal, over.signal]);
  const stop = (reason: unknown) => over.abort(reason);
  try {
    const { files, findings, facts } = await write(order, { ...options, signal, stop });
    await readBack(order, files, signal, options.onProgress);
    const { compression, recipients } = order.settings;
    return { ...merged(facts, findings), files, compression, recipients };
  } catch (thrown) {
    // Whoever stopped it knows why; what follows from that says something else.
    const error = over.signal.aborted ? over.signal.reason : thrown;
    // Whatever still runs is ended; then nobody writes any more.
    stop(error);
    const { destination, address } = order;
    await destination.remove(address, AbortSignal.timeout(CLEAN_UP_WITHIN_MS)).catch(() => {});
    options.signal.throwIfAborted();
    throw asFailure(error);
  }
}

interface Writing extends MakeOptions {
  stop(reason: unknown): void;
}

async function write(order: BackupOrder, writing: Writing) {
  const files: StoredFile[] = [];
  const findings: Findings[] = [];
  let before = 0;
  const keep = async (file: BackupFile, content: Readable) => {
    const watch = (bytes: number) => writing.onProgress?.({ stage: 'reading', bytes: before + bytes });
    const found = (finding: Findings) => findings.push(finding);
    const stored = await store({ ...order, ...writing, file, content, watch, found });
    before += stored.plainSize;
    files.push(stored);
  };
  const facts = await order.source.read(keep, writing.signal);
  return { files, findings, facts };
}

interface Storing extends BackupOrder, Writing {
  file: BackupFile;
  content: Readable;
  watch(bytes: number): void;
  found(findings: Findings): void;
}

/** Streams one file to the destination. If that fails it stops the source, which may be silent just then. */
async function store(storing: Storing): Promise<StoredFile> {
  const { source, destination, address, settings, file, content, signal } = storing;
  const plain = new Meter();
  const stored = new Meter();
  const inspect = { type: source.type, file, binDir: settings.pgBinDir, signal };
  const body = new PassThrough();
  const stages = [
    plain.stage(storing.watch),
    inspection(inspect, storing.found),
    ...compressor(settings.compression),
    ...encryption(settings.recipients),
    stored.stage(),
  ];
  const writing = destination.write(address, file, body, signal).catch((error) => {
    // What the source has told, it may know what to do about.
    if (!(content.errored instanceof OrchestratorError)) storing.stop(error);
    body.destroy();
    throw error;
  });
  // The types of `pipeline` know no list of stages.
  const reading = pipeline([content, ...stages, body] as unknown as [Readable, PassThrough], { signal });
  await bothEnds(reading, writing);
  return {
    name: file,
    size: stored.size,
    sha256: stored.sha256(),
    plainSize: plain.size,
    plainSha256: plain.sha256(),
  };
}

/** Waits for both. If one end of a stream fails the other does too, and only the first of them knows why. */
async function bothEnds(...ends: Promise<unknown>[]): Promise<void> {
  const outcomes = await Promise.allSettled(ends);
  const errors = outcomes.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => reason);
  if (errors.length > 0) throw errors.find((error) => error instanceof OrchestratorError) ?? errors.at(-1);
}

/** What the destination gives back is what was sent there, and where that can be opened, what the source gave. */
async function readBack(
  { destination, address, settings }: BackupOrder,
  files: StoredFile[],
  signal: AbortSignal,
  onProgress: MakeOptions['onProgress'],
): Promise<void> {
  let before = 0;
  for (const file of files) {
    const watch = (bytes: number) => onProgress?.({ stage: 'verifying', bytes: before + bytes });
    const opened = { destination, address, file, settings, watch };
    if (canDecrypt(settings.recipients, settings.identity)) await drain(await openPlain(opened, signal));
    else {
      const content = await destination.read(address, file.name, signal);
      await pipeline(content, new Meter().stage(watch), checked(`the file ${file.name}`, file), drain, {
        signal,
      });
    }
    before += file.size;
  }
}

async function drain(bytes: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const _ of bytes);
}

function merged(facts: SourceFacts, findings: Findings[]): SourceFacts {
  const counted = findings.find(({ entries }) => entries !== undefined)?.entries;
  if (facts.entries !== undefined && counted !== undefined && facts.entries !== counted)
    throw failed(`${facts.entries} entries were written, and the archive lists ${counted}`);
  return {
    ...facts,
    ...(counted !== undefined && { entries: counted }),
    notes: [...facts.notes, ...findings.flatMap(({ notes }) => notes ?? [])],
  };
}
