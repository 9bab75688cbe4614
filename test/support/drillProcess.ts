// A try of a drill in a process of its own, which somebody kills.
import { countRows, holdSnapshot, isEmptyDatabase } from '../../src/database/backupSnapshot.ts';
import { drillTry } from './drills.ts';

const { settings, ...given } = JSON.parse(process.env.DRILL_TRY!);
await drillTry({
  ...given,
  settings: { ...settings, databaseTools: { countRows, holdSnapshot, isEmptyDatabase } },
}).evidence;
