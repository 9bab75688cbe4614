// The command `npm run stack -- …`.
import path from 'node:path';
import { backupEnvironment } from './backups.ts';
import { type ServiceName, Stack, StackError, services, temporalCli } from './stack.ts';

const usage = `usage: npm run stack -- <command> [service …]

  start [service …]   start all services, or only these; what runs is left alone
  stop [service …]    stop all services, or only these; data is kept
  status              what runs, where
  env                 the variables that lead to the stack, and the Temporal CLI's PATH, for: eval "$(npm run --silent stack -- env)"

services: ${services.join(', ')}`;

class UsageError extends Error {}

function serviceNames(words: string[]): ServiceName[] {
  for (const word of words) {
    if (!(services as string[]).includes(word)) {
      throw new UsageError(`"${word}" is not a service: use ${services.join(', ')}`);
    }
  }
  return words.length > 0 ? (words as ServiceName[]) : services;
}

async function printStatus(stack: Stack) {
  const rows = (await stack.status()).map(({ name, state, pid, address, version }) => [
    name,
    state,
    String(pid ?? '-'),
    version ?? '-',
    address,
  ]);
  rows.unshift(['service', 'state', 'pid', 'version', 'address']);
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  for (const row of rows)
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    );
}

async function printEnv(stack: Stack) {
  const own = stack.env();
  const variables = {
    ...own,
    ...(await backupEnvironment(stack)),
    TEMPORAL_ADDRESS: own.SA01_TEMPORAL_HOST!,
  };
  for (const [name, value] of Object.entries(variables)) console.log(`export ${name}=${quoted(value)}`);
  // A machine without the Temporal CLI gets the stack's own, which was built with its server.
  console.log(`export PATH=${quoted(path.dirname(await temporalCli()))}:"$PATH"`);
}

const quoted = (value: string) => `'${value.replaceAll("'", "'\\''")}'`;

async function main([command, ...words]: string[]) {
  const stack = new Stack();
  if (command === 'start') return stack.start(serviceNames(words));
  if (command === 'stop') return stack.stop(serviceNames(words));
  if (command !== 'status' && command !== 'env') {
    throw new UsageError(command ? `"${command}" is not a command` : 'a command is missing');
  }
  if (words.length > 0) throw new UsageError(`${command} takes no further words`);
  return command === 'status' ? printStatus(stack) : printEnv(stack);
}

// kafkajs 2.2.4 asks for timers in the past; Node says so once, and no person can do anything about it.
process.removeAllListeners('warning');
process.on('warning', (warning) => {
  if (warning.name !== 'TimeoutNegativeWarning') console.error(`${warning.name}: ${warning.message}`);
});

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (error instanceof UsageError) console.error(`${error.message}\n\n${usage}`);
  else if (error instanceof StackError) console.error(error.message);
  else throw error;
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
