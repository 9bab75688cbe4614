import type { Stats } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import type { SourceFacts } from '../domain/backupFacts.ts';
import { directoryWithin } from './names.ts';
import type { BackupSource, KeepFile } from './source.ts';
import { type EntryHeader, TarWriter } from './tarWriting.ts';
import { openSeen, type TreeEntry, walk } from './tree.ts';

const READ_BYTES = 256 * 1024;
/** A file that changed while it was read is read again, so often. */
const PASSES = 3;
const MAX_NOTES = 20;
/** The largest user or group that a tar's plain header has room for. */
const MAX_ID = 0o777777;

type Seen<Kind> = Extract<TreeEntry, { kind: Kind }>;
type SeenFile = Seen<'file'>;

/**
 * A directory tree as a tar. A file that changed while it was read is appended once more, at the end, where an
 * extraction takes it from; one that never rests is told in the notes.
 */
export class FilesSource implements BackupSource {
  readonly type: 'files' | 'storage';
  readonly name: string;
  private readonly roots: string[];
  private readonly directory: string;

  /** `directory` must lie in or below one of the `roots`, also after all symbolic links. */
  constructor(
    directory: string,
    roots: string[],
    { type, name }: { type: 'files' | 'storage'; name: string } = { type: 'files', name: directory },
  ) {
    this.directory = directory;
    this.roots = roots;
    this.type = type;
    this.name = name;
  }

  async read(keep: KeepFile, signal: AbortSignal): Promise<SourceFacts> {
    const root = await directoryWithin(this.roots, this.directory);
    const reading = new TreeReading(root, signal);
    let entries = 0;
    await keep(
      'data',
      TarWriter.stream(async (tar) => {
        await reading.into(tar);
        entries = tar.entries;
      }),
    );
    return { versions: {}, entries, notes: reading.notes };
  }
}

class TreeReading {
  private readonly root: string;
  private readonly signal: AbortSignal;
  private readonly told: string[] = [];

  constructor(root: string, signal: AbortSignal) {
    this.root = root;
    this.signal = signal;
  }

  get notes(): string[] {
    const more = this.told.length - MAX_NOTES;
    return more > 0 ? [...this.told.slice(0, MAX_NOTES), `${more} more like these`] : this.told;
  }

  async into(tar: TarWriter): Promise<void> {
    let changed: SeenFile[] = [];
    for await (const entry of walk(this.root)) {
      this.signal.throwIfAborted();
      if (entry.kind === 'special') this.told.push(`${entry.name} is no file, directory or link: left out.`);
      else if (entry.kind !== 'file') await tar.add(headerOf(entry));
      else if (!(await this.addFile(tar, entry))) changed.push(entry);
    }
    for (let pass = 2; pass <= PASSES && changed.length > 0; pass++) changed = await this.again(tar, changed);
    for (const { name } of changed) this.told.push(`${name} changed while it was read, ${PASSES} times.`);
  }

  /** Appends them once more, and returns those that changed again. */
  private async again(tar: TarWriter, files: SeenFile[]): Promise<SeenFile[]> {
    const changed: SeenFile[] = [];
    for (const file of files) if (!(await this.addFile(tar, file))) changed.push(file);
    return changed;
  }

  /** Whether it stayed as it was while it was read; one that is gone, or no file any more, has done so. */
  private async addFile(tar: TarWriter, entry: SeenFile): Promise<boolean> {
    this.signal.throwIfAborted();
    const handle = await openSeen(entry);
    if (!handle) {
      this.told.push(`${entry.name} vanished, or became something else, before it was read.`);
      return true;
    }
    try {
      const before = await handle.stat();
      await tar.add(
        { ...headerOf({ ...entry, stats: before }), size: before.size },
        this.content(handle, before.size),
      );
      return sameContent(before, await handle.stat());
    } finally {
      await handle.close();
    }
  }

  /** Exactly so many bytes: of what was cut off meanwhile, zeros. */
  private async *content(handle: FileHandle, size: number): AsyncGenerator<Buffer> {
    let position = 0;
    while (position < size) {
      this.signal.throwIfAborted();
      const buffer = Buffer.alloc(Math.min(READ_BYTES, size - position));
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, position);
      position += bytesRead === 0 ? buffer.length : bytesRead;
      yield bytesRead === 0 ? buffer : buffer.subarray(0, bytesRead);
    }
  }
}

const sameContent = (before: Stats, after: Stats): boolean =>
  before.size === after.size && before.mtimeMs === after.mtimeMs;

function headerOf(entry: Exclude<TreeEntry, { kind: 'special' }>): EntryHeader {
  const { name, kind, stats } = entry;
  const { uid, gid, mtime } = stats;
  const isLarge = Math.max(uid, gid) > MAX_ID;
  const header = {
    ...{ name, mode: stats.mode & 0o7777, uid, gid, mtime },
    ...(isLarge && { pax: { uid: String(uid), gid: String(gid) } }),
  };
  return kind === 'symlink' ? { ...header, type: kind, linkname: entry.target } : { ...header, type: kind };
}
