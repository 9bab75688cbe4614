import { pino } from 'pino';
import { ConfigError, readConfig } from './config.ts';
import { describeError } from './domain/errors.ts';
import { prepareDatabase } from './resources.ts';

// `npm run migrate`: what a worker does with the database at its start, for those who give that right to another role.
try {
  const config = readConfig(process.env);
  await prepareDatabase(config, pino({ level: config.logLevel }));
} catch (error) {
  console.error(error instanceof ConfigError ? error.message : describeError(error));
  process.exitCode = error instanceof ConfigError ? 2 : 1;
}
