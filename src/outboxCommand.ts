// `npm run outbox -- <command>`: what a person does to the outbox of a running system.
import { pino } from 'pino';
import { type CommandContext, openContext } from './commands/command.ts';
import { drain } from './commands/drain.ts';
import { type OutboxCommand, parseCommand, USAGE, UsageError } from './commands/parse.ts';
import { repair } from './commands/repair.ts';
import { changeShards } from './commands/shards.ts';
import { show } from './commands/show.ts';
import { ConfigError, readConfig } from './config.ts';
import { fromPostgres } from './database/postgres.ts';
import { describeError } from './domain/errors.ts';

function run(context: CommandContext, command: OutboxCommand): Promise<void> {
  switch (command.name) {
    case 'show':
      return show(context);
    case 'repair':
      return repair(context, command.shard, command.choice);
    case 'shards':
      return changeShards(context, command.shards);
    case 'drain':
      return drain(context, command.shard);
  }
}

async function main(): Promise<void> {
  const command = parseCommand(process.argv.slice(2), Date.now());
  const config = readConfig(process.env);
  // What was done stands on stderr too, in the form of the worker's log.
  const context = await openContext(config, pino({ level: config.logLevel }, pino.destination(2)));
  try {
    await run(context, command);
  } catch (error) {
    throw fromPostgres(error);
  } finally {
    await context.close();
  }
}

function report(error: unknown): number {
  if (error instanceof UsageError) console.error(`${error.message}\n\n${USAGE}`);
  else console.error(error instanceof ConfigError ? error.message : describeError(error));
  return error instanceof UsageError || error instanceof ConfigError ? 2 : 1;
}

main()
  .then(() => 0, report)
  .then((code) => process.exit(code));
