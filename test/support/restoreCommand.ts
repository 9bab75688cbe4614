import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { testStack } from './stack.ts';

/** `npm run restore -- …`, in this process's Node: what it says, and what it complains of. */
export async function restoreCommand(env: Record<string, string>, ...args: string[]) {
  const file = path.join(import.meta.dirname, '..', '..', 'src', 'restoreCommand.ts');
  const running = promisify(execFile)(process.execPath, [file, ...args], {
    env: { ...process.env, ...testStack().env(), ...env },
  });
  return running.then(
    ({ stdout, stderr }) => ({ code: 0, said: stdout, complained: stderr }),
    ({ code, stdout, stderr }) => ({ code: Number(code), said: stdout, complained: stderr }),
  );
}
