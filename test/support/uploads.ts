import { createHash, randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import type pg from 'pg';
import { inTransaction } from '../../src/database/postgres.ts';
import { type AskedUpload, takeUploads } from '../../src/database/uploads.ts';
import { OrchestratorError } from '../../src/domain/errors.ts';
import type { TierName } from '../../src/domain/uploads.ts';
import type { ByteSource } from '../../src/storage/byteSource.ts';
import { inOne } from '../../src/storage/digest.ts';
import type { StorageTier, StoredCopy, StoredFacts } from '../../src/storage/tier.ts';

export const sha256 = (bytes: string | Uint8Array): string =>
  createHash('sha256').update(bytes).digest('hex');

export const askedUpload = (content: string, overrides: Partial<AskedUpload> = {}): AskedUpload => ({
  idempotencyKey: `key-${randomUUID()}`,
  filename: 'a file.txt',
  contentType: 'text/plain',
  metadata: {},
  size: Buffer.byteLength(content),
  dataBase64: Buffer.from(content).toString('base64'),
  dataRef: null,
  sentAt: 0,
  ...overrides,
});

/** As the consumer does it. */
export const take = (client: pg.ClientBase, uploads: AskedUpload[]) =>
  inTransaction(client, () => takeUploads(client, uploads));

export type Mood = 'up' | 'away' | 'refuses' | 'corrupts' | 'forgets';

/** A tier in this process that is in whatever mood a test wants. */
export class TestTier implements StorageTier {
  readonly name: TierName;
  readonly copies = new Map<string, Buffer>();
  mood: Mood = 'up';
  stores = 0;
  /** What happens before a store answers. */
  beforeAnswer: () => void | Promise<void> = () => {};

  constructor(name: TierName) {
    this.name = name;
  }

  async store(key: string, open: () => Promise<ByteSource>, facts: StoredFacts): Promise<StoredCopy> {
    this.stores += 1;
    this.answer();
    const bytes = await inOne(await open(), Buffer.alloc(facts.size));
    if (sha256(bytes) !== facts.sha256) throw new OrchestratorError('upload_corrupt', 'other bytes');
    if (this.mood === 'forgets') throw new OrchestratorError('upload_corrupt', 'it is not there afterwards');
    this.copies.set(key, bytes);
    await this.beforeAnswer();
    return { location: `${this.name}://${key}`, durability: `as ${this.name} keeps it` };
  }

  async verify(key: string, { sha256: promised }: StoredFacts): Promise<StoredCopy | undefined> {
    this.answer();
    const bytes = this.copies.get(key);
    if (bytes && sha256(bytes) !== promised) throw new OrchestratorError('upload_corrupt', 'it has changed');
    return bytes && { location: `${this.name}://${key}`, durability: '' };
  }

  async read(key: string): Promise<Readable> {
    this.answer();
    const bytes = this.copies.get(key);
    if (!bytes) throw new OrchestratorError('storage_refused', 'it is not there');
    return Readable.from(bytes.length > 0 ? [bytes] : []);
  }

  async remove(key: string): Promise<void> {
    this.answer();
    this.copies.delete(key);
  }

  async stranded(): Promise<[]> {
    return [];
  }

  private answer(): void {
    if (this.mood === 'away') throw new OrchestratorError('storage_unavailable', 'no answer');
    if (this.mood === 'refuses') throw new OrchestratorError('storage_refused', 'forbidden');
    if (this.mood === 'corrupts') throw new OrchestratorError('upload_corrupt', 'a bit was flipped');
  }
}

export interface UploadRow {
  state: string;
  tier: TierName | null;
  attempts: number;
  last_error: string | null;
  data: Buffer | null;
  data_ref: string | null;
  sha256: string | null;
  location: string | null;
  touched_tiers: TierName[];
}

export async function uploadRow(client: pg.ClientBase, key: string): Promise<UploadRow> {
  const { rows } = await client.query<UploadRow>(
    'SELECT * FROM orchestrator.upload WHERE idempotency_key = $1',
    [key],
  );
  if (!rows[0]) throw new Error(`there is no upload ${key}`);
  return rows[0];
}

/** The events about an upload, in their order. */
export async function receipts(client: pg.ClientBase, key: string) {
  const { rows } = await client.query<{ payload: Record<string, unknown> }>(
    `SELECT payload FROM core_outboxmessage WHERE topic = 'upload.receipts' AND partition_key = $1 ORDER BY relay_seq`,
    [key],
  );
  return rows.map(({ payload }) => payload);
}

/** The dead letters of an upload, the oldest first. */
export async function letters(client: pg.ClientBase, key: string) {
  const { rows } = await client.query<{
    id: string;
    payload: Record<string, unknown>;
    error_message: string;
    error_type: string;
  }>(
    `SELECT id, payload, error_message, error_type FROM core_deadlettermessage
     WHERE idempotency_key = $1 ORDER BY created_at`,
    [key],
  );
  return rows;
}
