import { randomUUID } from 'node:crypto';
import { open, readFile, rm } from 'node:fs/promises';
import path from 'node:path';

/** Roots with a canary under way. */
const busy = new Set<string>();

/**
 * Writes a small file below `root` down to the disk, reads it back and deletes it.
 *
 * Nothing can call back a file operation on a mount that hangs, and each holds one of the process's few threads for
 * file and name look-ups. So while one hangs no other is begun for its root; when it ends after all, its file goes.
 * @throws what kept the file from being written or read, or that it reads back as something else
 */
export async function probeFilesystem(root: string): Promise<void> {
  if (busy.has(root)) throw new Error('an earlier canary has not come back yet');
  busy.add(root);
  try {
    await canary(path.join(root, `.health-${randomUUID()}`), randomUUID());
  } finally {
    busy.delete(root);
  }
}

async function canary(file: string, content: string): Promise<void> {
  try {
    const handle = await open(file, 'wx', 0o600);
    try {
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle.close();
    }
    if ((await readFile(file, 'utf8')) !== content)
      throw new Error('what was written reads back as something else');
  } finally {
    await rm(file, { force: true });
  }
}
