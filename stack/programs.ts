// Finding, fetching and running the programs that the stack is made of.
import { spawn } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { cached, progress } from './cache.ts';
import { withLock } from './lock.ts';
import { cacheRoot } from './paths.ts';

/** What a person has to put right; its message is one sentence, shown without a stack trace. */
export class StackError extends Error {
  override name = 'StackError';
}

export interface RunOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  uid?: number;
  gid?: number;
}

/** Runs a program to its end and returns what it wrote to stdout; its last lines are in the error if it fails. */
export function run(command: string, args: string[], options: RunOptions = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
    let out = '';
    let all = '';
    child.stdout.on('data', (chunk) => {
      out += chunk;
      all += chunk;
    });
    child.stderr.on('data', (chunk) => {
      all += chunk;
    });
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (code === 0) return resolve(out);
      const shown = `${path.basename(command)} ${args.join(' ')}`;
      reject(new StackError(`${shown} ended with ${signal ?? code}:\n${lastLines(all, 15)}`));
    });
  });
}

export function lastLines(text: string, count: number): string {
  return text.trimEnd().split('\n').slice(-count).join('\n');
}

/** The program's path, when some directory of PATH has it. */
export function onPath(name: string): string | undefined {
  const directories = (process.env.PATH ?? '').split(path.delimiter).filter(Boolean);
  return directories.map((directory) => path.resolve(directory, name)).find(isExecutable);
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

/** The binary that `variable` names, else PATH's, else undefined (then it is fetched). */
export function ownBinary(name: string, variable: string): string | undefined {
  const named = process.env[variable];
  if (!named) return onPath(name);
  if (isExecutable(named)) return named;
  throw new StackError(
    `${variable} is "${named}", which is not an executable file: name the ${name} binary.`,
  );
}

/** `java` or `jar`, of JAVA_HOME if that is set. */
export function javaTool(name: 'java' | 'jar', neededFor: string): string {
  const home = process.env.JAVA_HOME;
  const tool = home ? path.join(home, 'bin', name) : onPath(name);
  if (tool && isExecutable(tool)) return tool;
  const where = home ? `JAVA_HOME (${home}) has no bin/${name}` : `there is no ${name} on the PATH`;
  throw new StackError(
    `${neededFor} needs Java and ${where}: install a JDK (17 or newer) or set JAVA_HOME to one.`,
  );
}

interface GoProgram {
  title: string;
  name: string;
  variable: string;
  module: string;
  version: string;
  duration: string;
}

/** A Go program: the user's own binary, else built once from its module. */
export async function goProgram(program: GoProgram): Promise<string> {
  const { title, name, variable, module, version, duration } = program;
  const own = ownBinary(name, variable);
  if (own) return own;
  const build = async (directory: string) => {
    const go = onPath('go');
    if (!go) {
      throw new StackError(
        `${title} needs Go to be built once: install Go, or put ${name} on the PATH, or name its binary in ${variable}.`,
      );
    }
    progress(`${title} ${version}: building with Go, once (${duration}) …`);
    await run(go, ['install', `${module}@v${version}`], {
      cwd: directory,
      env: { ...process.env, GOBIN: directory },
    });
  };
  return path.join(await cached(`${name}-${version}`, build), name);
}

/** Copies the artifacts and all they depend on into `directory/libs` with Maven. */
export async function copyMavenArtifacts(title: string, artifacts: string[], directory: string) {
  const maven = onPath('mvn');
  if (!maven)
    throw new StackError(`${title} needs Maven to be fetched once: install Maven (the command mvn).`);
  const dependencies = artifacts.map((artifact) => {
    const [group, name, version] = artifact.split(':');
    return `<dependency><groupId>${group}</groupId><artifactId>${name}</artifactId><version>${version}</version></dependency>`;
  });
  const pom = path.join(directory, 'pom.xml');
  await writeFile(
    pom,
    `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>embedded</groupId><artifactId>stack</artifactId><version>1</version>
<dependencies>${dependencies.join('\n')}</dependencies></project>\n`,
  );
  const args = ['-q', '-B', '-f', pom, 'dependency:copy-dependencies'];
  // Maven's local repository is not made for two processes that write to it.
  await withLock(path.join(cacheRoot(), 'maven.lock'), async () => {
    progress(`${title}: fetching with Maven, once (about half a minute) …`);
    await run(maven, [...args, `-DoutputDirectory=${path.join(directory, 'libs')}`], { cwd: directory });
  });
}
