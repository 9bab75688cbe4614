import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { createClient, RESP_TYPES } from 'redis';
import { OrchestratorError } from '../domain/errors.ts';
import type { ByteSource } from './byteSource.ts';
import { digestOf, inPortions, isSame, promisedBytes } from './digest.ts';
import { asStorageError, brokenCopy, checkKey, inPlace, noCopy, type Place, takenKey } from './failures.ts';
import { describeDurability, readSettings } from './redisDurability.ts';
import { diagnoseRedis } from './redisFailures.ts';
import type { StorageTier, StoredCopy, StoredFacts, StrandedUpload } from './tier.ts';

export interface RedisLimits {
  /** Larger files are refused: Redis holds all of them in memory. */
  maxBytes: number;
  /** A Redis that sends and takes nothing for so long is away. */
  silenceMs: number;
}

const LIMITS: RedisLimits = { maxBytes: 64 * 1024 * 1024, silenceMs: 30_000 };

const CONNECT_MS = 5_000;
const PORTION = 1024 * 1024;

/** How long Redis may take to get its file to the disk before it counts as not confirmed. */
const SYNC_MS = 2_000;

/** What nobody finished is gone after this by itself. */
const PARTIAL_EXPIRY_SECONDS = 24 * 60 * 60;

/** How long the removal of what failed is tried. */
const CLEANUP_MS = 2_000;

type RedisClient = ReturnType<typeof connectionTo>;
type Found = 'good' | 'broken' | 'absent';

/**
 * Hashes `upload:<key>` with the fields `facts` (JSON) and `0`, `1`, … (a mebibyte each).
 *
 *     upload-partial:{upload:<key>}:… --written, read back--> RENAMENX to upload:<key> --> stored
 *
 * The braces keep both names in one slot of a cluster. Each call has a connection of its own, so that none has to be
 * closed, and a signal ends whatever is under way on it.
 */
export class RedisTier implements StorageTier {
  readonly name = 'redis';
  private readonly url: URL;
  private readonly limits: RedisLimits;
  private readonly place: Place;

  constructor(url: string, limits: Partial<RedisLimits> = {}) {
    this.url = new URL(url);
    this.limits = { ...LIMITS, ...limits };
    this.place = { title: `Redis at ${this.address()}`, diagnose: diagnoseRedis };
  }

  store(key: string, open: () => Promise<ByteSource>, facts: StoredFacts, signal: AbortSignal) {
    const name = nameOf(key);
    return inPlace(this.place, signal, async () => {
      if (facts.size > this.limits.maxBytes) throw this.tooLarge(facts);
      return this.connected(signal, async (client) => {
        const found = await this.look(client, name, facts);
        if (found !== 'good') {
          const bytes = promisedBytes(open, facts, signal);
          await this.write(client, name, bytes, facts, found === 'absent');
        }
        return this.copy(client, name);
      });
    });
  }

  verify(key: string, facts: StoredFacts, signal: AbortSignal) {
    const name = nameOf(key);
    return this.atWork(signal, async (client) => {
      if (!(await client.exists(name))) return undefined;
      if (!isSame(await digestOf(portions(client, name)), facts))
        throw brokenCopy(this.place, name, 'reads back as other bytes');
      return this.copy(client, name);
    });
  }

  read(key: string, signal: AbortSignal) {
    const name = nameOf(key);
    return this.atWork(signal, async (client) => {
      const facts = await factsOf(client, name);
      if (!facts) throw noCopy(this.place, name);
      return Readable.from(this.bytes(name, facts.size, signal), { objectMode: false });
    });
  }

  remove(key: string, signal: AbortSignal) {
    const name = nameOf(key);
    return this.atWork(signal, async (client) => {
      await client.unlink(name);
    });
  }

  stranded(before: number, signal: AbortSignal) {
    return this.atWork(signal, async (client) => {
      const found: StrandedUpload[] = [];
      for await (const names of client.scanIterator({ MATCH: `${PARTIAL}*`, COUNT: 1_000 })) {
        for (const name of names) {
          const begun = Number(BEGUN.exec(name)?.[1] ?? Number.NaN);
          if (!(begun < before)) continue;
          const remove = (ending: AbortSignal) => this.atWork(ending, (own) => unlink(own, name));
          found.push({ name: `${this.place.title}: ${name}`, since: new Date(begun), remove });
        }
      }
      return found;
    });
  }

  private async write(
    client: RedisClient,
    name: string,
    bytes: AsyncIterable<Buffer>,
    facts: StoredFacts,
    isNew: boolean,
  ): Promise<void> {
    const partial = `${PARTIAL}{${name}}:${Date.now()}:${randomBytes(8).toString('hex')}`;
    let taken = false;
    try {
      await client
        .multi()
        .hSet(partial, 'facts', JSON.stringify(facts))
        .expire(partial, PARTIAL_EXPIRY_SECONDS)
        .exec();
      let index = 0;
      for await (const portion of inPortions(bytes, PORTION, 1)) {
        await client.hSet(partial, String(index), portion);
        index += 1;
      }
      if (!isSame(await digestOf(portions(client, partial)), facts))
        throw brokenCopy(this.place, partial, 'reads back as other bytes');
      taken = await rename(client, partial, name, isNew);
    } finally {
      if (!taken) await this.discard(partial);
    }
    if (!taken && (await this.look(client, name, facts)) !== 'good')
      throw brokenCopy(this.place, name, 'came in between and is not whole');
  }

  /** On a connection of its own: the other one may be gone. */
  private async discard(partial: string): Promise<void> {
    await this.connected(AbortSignal.timeout(CLEANUP_MS), (client) => unlink(client, partial)).catch(
      () => {},
    );
  }

  /** @throws OrchestratorError upload_refused: it was put there as another file */
  private async look(client: RedisClient, name: string, facts: StoredFacts): Promise<Found> {
    const found = await factsOf(client, name);
    if (!found) return 'absent';
    if (found.sha256 !== facts.sha256) throw takenKey(this.place, name);
    return isSame(await digestOf(portions(client, name)), facts) ? 'good' : 'broken';
  }

  private async *bytes(name: string, size: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    const client = connectionTo(this.url, this.limits.silenceMs, signal);
    try {
      await client.connect();
      let read = 0;
      for await (const portion of portions(client, name)) {
        read += portion.length;
        yield portion;
      }
      if (read !== size) throw brokenCopy(this.place, name, `has ${read} bytes instead of ${size}`);
    } catch (error) {
      signal.throwIfAborted();
      throw asStorageError(this.place, error);
    } finally {
      client.destroy();
    }
  }

  private atWork<T>(signal: AbortSignal, work: (client: RedisClient) => Promise<T>): Promise<T> {
    return inPlace(this.place, signal, () => this.connected(signal, work));
  }

  private async connected<T>(signal: AbortSignal, work: (client: RedisClient) => Promise<T>): Promise<T> {
    const client = connectionTo(this.url, this.limits.silenceMs, signal);
    try {
      await client.connect();
      return await work(client);
    } finally {
      client.destroy();
    }
  }

  private async copy(client: RedisClient, name: string): Promise<StoredCopy> {
    const durability = `${this.place.title}: ${await durabilityOf(client)}`;
    return { location: `${this.url.protocol}//${this.address()}/${name}`, durability };
  }

  private tooLarge({ size }: StoredFacts): OrchestratorError {
    const limit = `at most ${this.limits.maxBytes} bytes are kept there, these are ${size}`;
    return new OrchestratorError('storage_refused', `${this.place.title}: ${limit}.`);
  }

  /** Host, port and database; no credentials. */
  private address(): string {
    const { hostname, port, pathname } = this.url;
    return `${hostname}:${port || '6379'}/${pathname.slice(1) || '0'}`;
  }
}

const PARTIAL = 'upload-partial:';
const BEGUN = /:(\d+):[0-9a-f]+$/;

const nameOf = (key: string): string => `upload:${checkKey(key)}`;

/** Makes the whole hash visible, for good. Whether it was that: `isNew` never replaces another. */
async function rename(client: RedisClient, partial: string, name: string, isNew: boolean): Promise<boolean> {
  const lasting = client.multi().persist(partial);
  const [, renamed] = await (isNew ? lasting.renameNX(partial, name) : lasting.rename(partial, name)).exec();
  return Boolean(Number(renamed)) || String(renamed) === 'OK';
}

async function factsOf(client: RedisClient, name: string): Promise<StoredFacts | undefined> {
  const facts = await client.hGet(name, 'facts');
  return facts ? (JSON.parse(facts) as StoredFacts) : undefined;
}

async function* portions(client: RedisClient, name: string): AsyncGenerator<Buffer> {
  const binary = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  for (let index = 0; ; index += 1) {
    const portion = await binary.hGet(name, String(index));
    if (!portion) return;
    yield portion;
  }
}

async function unlink(client: RedisClient, name: string): Promise<void> {
  await client.unlink(name);
}

/** A Redis that does not let itself be asked makes the answer less sure, no more. */
async function durabilityOf(client: RedisClient): Promise<string> {
  const unlessRefused = <T>(answer: Promise<T>) => answer.catch(() => undefined);
  // Before Redis 7 one CONFIG GET takes one name.
  const [info, fsync, save, synced] = await Promise.all([
    unlessRefused(client.info()),
    unlessRefused(client.configGet('appendfsync')),
    unlessRefused(client.configGet('save')),
    // Redis 7.2 and later know it; it is refused where there is no append-only file.
    unlessRefused(client.sendCommand<unknown[]>(['WAITAOF', '1', '0', String(SYNC_MS)])),
  ]);
  return describeDurability(readSettings(info, { ...fsync, ...save }), synced?.[0] === 1);
}

/** Neither tries again nor waits for ever. */
function connectionTo(url: URL, silenceMs: number, signal: AbortSignal) {
  const socket = {
    reconnectStrategy: false,
    connectTimeout: CONNECT_MS,
    socketTimeout: silenceMs,
    signal,
  } as const;
  const client = createClient({ url: url.href, socket });
  // Errors of the connection arrive here as well as where somebody waits for an answer.
  client.on('error', () => {});
  return client;
}
