// pg_dump, pg_dumpall and pg_restore: what backups need, and what the server's own package lacks.
import { readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { cached, progress } from './cache.ts';
import { onPath, run, StackError } from './programs.ts';

/** Of the server: older programs cannot dump it, and what newer ones write does not restore into it. */
const major = 16;
const version = '16.2';

/**
 * A Python package that carries the programs whole: the registries of npm, Maven and Go have none that does. Nothing of
 * it is installed, and nothing of Python runs but the download.
 */
const wheel = { name: 'pgserver', version: '0.1.4', python: '3.12' };
const platforms: Record<string, string> = {
  'linux-x64': 'manylinux2014_x86_64',
  'darwin-arm64': 'macosx_11_0_arm64',
  'darwin-x64': 'macosx_10_9_x86_64',
};
const hint = 'install the client programs of PostgreSQL 16, or name their directory in SA01_PG_BIN_DIR';

/** The directory of the programs: SA01_PG_BIN_DIR, else that of the PATH or of Debian's packages if it is of the server's version, else fetched once. */
export async function postgresClients(): Promise<string> {
  const named = process.env.SA01_PG_BIN_DIR;
  if (named) return named;
  for (const directory of await installed()) if ((await majorOf(directory)) === major) return directory;
  const home = await cached(`postgres-clients-${version}`, fetchWheel);
  return path.join(home, wheel.name, 'pginstall', 'bin');
}

async function installed(): Promise<string[]> {
  const first = onPath('pg_dump');
  const debian = '/usr/lib/postgresql';
  const majors = await readdir(debian).catch(() => []);
  const directories = majors.map((major) => path.join(debian, major, 'bin'));
  return first ? [path.dirname(first), ...directories] : directories;
}

const majorOf = (directory: string): Promise<number> =>
  run(path.join(directory, 'pg_dump'), ['--version']).then(
    (printed) => Number(/\(PostgreSQL\) (\d+)/.exec(printed)?.[1]),
    () => 0,
  );

async function fetchWheel(directory: string): Promise<void> {
  const platform = platforms[`${process.platform}-${process.arch}`];
  if (!platform)
    throw new StackError(`pg_dump cannot be fetched for ${process.platform}-${process.arch}: ${hint}.`);
  const python = onPath('python3');
  if (!python)
    throw new StackError(`pg_dump needs Python with pip to be fetched once: install it; or ${hint}.`);
  progress(`pg_dump ${version}: fetching with pip, once (some seconds) …`);
  const wanted = [
    '--no-deps',
    '--only-binary=:all:',
    '--python-version',
    wheel.python,
    '--platform',
    platform,
  ];
  const pip = ['-m', 'pip', '--disable-pip-version-check', 'download', '--quiet', ...wanted];
  await run(python, [...pip, '--dest', directory, `${wheel.name}==${wheel.version}`]);
  const [file] = (await readdir(directory)).filter((name) => name.endsWith('.whl'));
  const archive = path.join(directory, 'wheel.zip');
  await rename(path.join(directory, file ?? ''), archive);
  // Python's own zipfile would lose the rights to execute.
  await run(python, ['-c', unpack, archive, directory]);
  await rm(archive);
}

const unpack = `
import os, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    for entry in archive.infolist():
        if entry.filename.startswith(('pgserver/pginstall/bin/pg_dump', 'pgserver/pginstall/bin/pg_restore', 'pgserver/pginstall/lib/libpq', 'pgserver.libs/', 'pgserver/.dylibs/')):
            mode = entry.external_attr >> 16
            os.chmod(archive.extract(entry, sys.argv[2]), mode & 0o777 or 0o755)
`;
