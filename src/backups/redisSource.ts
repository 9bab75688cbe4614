import { Readable } from 'node:stream';
import { createClient } from 'redis';
import type { SourceFacts } from '../domain/backupFacts.ts';
import { describeError } from '../domain/errors.ts';
import { failed, refused } from './names.ts';
import { receiveDump } from './replication.ts';
import type { BackupSource, KeepFile } from './source.ts';

const DEFINITE = /^(WRONGPASS|NOAUTH|NOPERM|ERR (invalid password|Client sent AUTH|AUTH ))/;

/** It has so long to let us in and to say its version. */
const ANSWER_MS = 30_000;

/** A Redis as the dump (RDB) that it sends to a replica: all its databases at one moment. */
export class RedisSource implements BackupSource {
  readonly type = 'redis';
  readonly name: string;
  private readonly url: string;

  constructor(name: string, url: string) {
    this.name = name;
    this.url = url;
  }

  async read(keep: KeepFile, signal: AbortSignal): Promise<SourceFacts> {
    const server = await this.version(signal);
    await keep('data', Readable.from(receiveDump(this.url, signal), { objectMode: false }));
    return { versions: { server }, notes: [] };
  }

  /** Also finds out, before anything starts, whether Redis lets us in. */
  private async version(signal: AbortSignal): Promise<string> {
    const socket = { reconnectStrategy: false as const, connectTimeout: 10_000, signal };
    const client = createClient({ url: this.url, socket });
    client.on('error', () => {});
    const cut = setTimeout(() => client.destroy(), ANSWER_MS);
    try {
      await client.connect();
      return /redis_version:(\S+)/.exec(await client.info('server'))?.[1] ?? 'unknown';
    } catch (error) {
      signal.throwIfAborted();
      const said = describeError(error);
      throw DEFINITE.test(said)
        ? refused(`Redis refuses the backup: ${said}`, { cause: error })
        : failed(`Redis cannot be reached: ${said}`, { cause: error });
    } finally {
      clearTimeout(cut);
      client.destroy();
    }
  }
}
