// Is loaded into a worker before its own code, see filesPlace, and holds it for ever at one call to the file system: there
// it can be killed for sure. HOLD_FILES says at which, and which file then tells.
import files, { type FileHandle } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import type { HeldFiles } from './backupHolds.ts';

const asked = process.env.HOLD_FILES;
if (asked) hold(JSON.parse(asked) as HeldFiles);

function hold({ when, call, file, tell }: HeldFiles): void {
  const isMeant = (own: string, name: unknown) =>
    own === call && new RegExp(`/(${file})$`).test(String(name));
  const stay = async () => {
    await files.writeFile(tell, '');
    await new Promise(() => {});
  };
  const held = async <T>(own: string, name: unknown, work: () => Promise<T>): Promise<T> => {
    const meant = isMeant(own, name);
    if (meant && when === 'before') await stay();
    const done = await work();
    if (meant && when === 'after') await stay();
    return done;
  };
  const { open, rename, rm } = files;
  Object.assign(files, {
    rename: (from: string, to: string) => held('name', to, () => rename(from, to)),
    rm: (name: string, options: object) => held('remove', name, () => rm(name, options)),
    async open(name: string, flags: string, mode: number): Promise<FileHandle> {
      const handle = await held(flags === 'r' ? 'read' : 'open', name, () => open(name, flags, mode));
      if (isMeant('write', name.replace(/\.partial-.*/, ''))) stopInTheMiddle(handle, stay);
      return handle;
    },
  });
  // For those who import them by name.
  syncBuiltinESMExports();
}

/** The first MiB and a little more arrive. */
function stopInTheMiddle(handle: FileHandle, stay: () => Promise<void>): void {
  async function* someOf(content: AsyncIterable<Buffer>) {
    let given = 0;
    for await (const chunk of content) {
      if (given > 1 << 20) await stay();
      given += chunk.length;
      yield chunk;
    }
  }
  const { writeFile } = handle;
  handle.writeFile = (content, options) =>
    writeFile.call(handle, someOf(content as unknown as AsyncIterable<Buffer>), options);
}
