/** What is asked of a Redis that keeps bytes. Undefined: it does not tell. */
export interface RedisSettings {
  appendOnly: boolean | undefined;
  appendFsync: string | undefined;
  /** The rules for snapshots; empty if there are none. */
  save: string | undefined;
  /** In bytes; 0 is no limit. */
  maxMemory: number | undefined;
  maxMemoryPolicy: string | undefined;
}

/** Both answers are text of Redis; an undefined one was not given. */
export function readSettings(info: string | undefined, config: Record<string, string>): RedisSettings {
  const told = new Map(info?.split(/\r?\n/).map((line) => line.split(':', 2) as [string, string]));
  const appendOnly = told.get('aof_enabled');
  const maxMemory = told.get('maxmemory');
  return {
    appendOnly: appendOnly === undefined ? undefined : appendOnly === '1',
    appendFsync: config.appendfsync,
    save: config.save,
    maxMemory: maxMemory === undefined ? undefined : Number(maxMemory),
    maxMemoryPolicy: told.get('maxmemory_policy'),
  };
}

/** How safe a value without an expiry is, for people. `synced`: Redis said that its file has it on the disk. */
export const describeDurability = (settings: RedisSettings, synced: boolean): string =>
  `${persistence(settings, synced)}; ${eviction(settings)}; no expiry`;

function persistence({ appendOnly, appendFsync, save }: RedisSettings, synced: boolean): string {
  if (synced) return 'append-only file, on the disk (fsync confirmed)';
  if (appendOnly === undefined) return 'whether it outlasts a restart is not known';
  if (appendOnly) {
    const known: Record<string, string> = {
      always: 'fsync with every write',
      everysec: 'fsync every second',
      no: 'written to the disk when the system likes',
    };
    return `append-only file, ${known[appendFsync ?? ''] ?? 'how often it is synced is not known'}`;
  }
  if (save) return 'snapshots only: lost if Redis dies before the next one';
  if (save === '') return 'held in memory only: lost when Redis stops';
  return 'no append-only file: lost when Redis dies, unless it takes snapshots';
}

/** Policies of the kind volatile-* take values with an expiry only. */
function eviction({ maxMemory, maxMemoryPolicy }: RedisSettings): string {
  if (maxMemory === undefined || maxMemoryPolicy === undefined)
    return 'whether it may be evicted is not known';
  if (maxMemory > 0 && maxMemoryPolicy.startsWith('allkeys-'))
    return `may be evicted when memory runs short (${maxMemoryPolicy})`;
  if (maxMemory === 0) return 'never evicted (no memory limit)';
  return `never evicted (${maxMemoryPolicy})`;
}
