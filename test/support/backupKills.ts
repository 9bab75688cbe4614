// One backup whose worker is killed with -9 at each step of its way, one after another.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import type { BackupManifest } from '../../src/domain/backups.ts';
import { childrenRunning, isRunning } from './backupFaults.ts';
import { filesPlace, type HoldingPlace, makeRowsHoldable, s3Place } from './backupHolds.ts';
import { backupSteps, type Step, WHOLE } from './backupSteps.ts';
import { backupWorld } from './backupWorld.ts';
import { eventually } from './eventually.ts';
import { startWorker } from './worker.ts';

export interface Kills {
  kind: HoldingPlace['kind'];
  /** Of the database. To S3 it goes in parts if there are more than 400,000. */
  rows: number;
  /** At the steps with such names; at all of them unless it is given. */
  only?: RegExp;
}

/**
 * Makes two backups, and a third whose worker is killed at each of the steps: it is held there, looked at, and killed.
 * At the end the third is the only one of its task, and true; the second is as it was; nothing else is left anywhere.
 * Returns how often it killed.
 */
export async function killAtEachStep(
  { kind, rows, only = /./ }: Kills,
  say: (line: string) => void,
): Promise<number> {
  await using world = await backupWorld();
  await using place = kind === 's3' ? await s3Place() : filesPlace(world.directory);
  await world.database.client.query(
    `CREATE TABLE notes AS SELECT n, gen_random_uuid()::text || gen_random_uuid() || gen_random_uuid() AS note
     FROM generate_series(1, $1::int) AS n`,
    [rows],
  );
  const killed = new KilledBackup(world, place);
  await killed.makeEarlier();
  for (const step of backupSteps.filter(({ name }) => only.test(name))) {
    await killed.killAt(step);
    say(`${kind}: killed while ${step.name}`);
  }
  await killed.verify();
  return killed.kills;
}

/** What a worker left that was killed two days ago and one hour. */
const STRANDED = '20260101t000000z-00000000-1';
const STRANDED_MS = 49 * 3_600_000;

const KEY = 'killed';

class KilledBackup {
  kills = 0;
  private readonly world: Awaited<ReturnType<typeof backupWorld>>;
  private readonly place: HoldingPlace;
  private readonly env: Record<string, string>;
  /** What to call the directories of other backups. */
  private readonly names = new Map([[STRANDED, 'stranded']]);
  private id: string | undefined;
  private second: Record<string, string> = {};
  private tries = 0;
  private isMade = false;

  constructor(world: KilledBackup['world'], place: HoldingPlace) {
    this.world = world;
    this.place = place;
    this.env = {
      ...world.env,
      ...place.env,
      SA01_BACKUP_DESTINATION: place.url,
      SA01_BACKUP_RETENTION: 'last=2',
    };
  }

  async makeEarlier(): Promise<void> {
    const { database, source } = this.world;
    await using worker = await startWorker(this.env);
    await worker.ready();
    for (const key of ['oldest', 'second']) {
      const { id } = await (await this.start(key)).result();
      this.names.set(`${id}-1`, key);
    }
    await makeRowsHoldable(database);
    const since = new Date(Date.now() - STRANDED_MS);
    await this.place.lay(`database/${source}/${STRANDED}/data`, since);
    this.second = await this.hashes('second');
  }

  async killAt(step: Step): Promise<void> {
    const isTry = step.activity === 'makeBackup';
    const isMade = !isTry && step.activity !== 'beginBackup';
    if (isTry || (isMade && !this.isMade)) this.tries += 1;
    this.isMade ||= isMade;
    await using hold = await step.hold({ ...this.world, place: this.place });
    await using worker = await startWorker({ ...this.env, ...hold.env });
    await worker.ready();
    if (this.kills === 0) await this.start(KEY);
    await hold.reached();
    const programs = await programsOf(worker.process.pid!);
    const sessions = await this.sessions();
    await worker.end('SIGKILL');
    this.kills += 1;
    assert.deepEqual(await this.seen(), this.expected(step), step.name);
    if (step.dumps) assert.ok(programs.length > 0, 'pg_dump runs');
    await hold[Symbol.asyncDispose]();
    await eventually('the end of what it had begun', async () => {
      const left = (await this.sessions()).filter((pid) => sessions.includes(pid));
      const running = await Promise.all(programs.map(isRunning));
      return left.length === 0 && !running.includes(true);
    });
  }

  /** One verified backup of the task, which is what its manifest says and can be restored; and no orphans. */
  async verify(): Promise<void> {
    const { namespace, database, source } = this.world;
    await using worker = await startWorker(this.env);
    await worker.ready();
    const { id, state, manifest, attempts, retention } = await namespace.orchestrator.backup(KEY).result();
    assert.deepEqual([state, attempts, retention?.last_error], ['verified', this.tries, null]);
    this.id = id!;
    const { rows } = await database.client.query(
      'SELECT idempotency_key AS key, state, manifest FROM orchestrator.backup ORDER BY started_at',
    );
    assert.deepEqual(
      rows.map((row) => [row.key, row.state]),
      [
        ['oldest', 'removed'],
        ['second', 'verified'],
        [KEY, 'verified'],
      ],
    );
    assert.deepEqual(
      await this.files(),
      ['own', 'second'].flatMap((one) => WHOLE.map((file) => `${one}/${file}`)),
    );
    assert.deepEqual(await this.hashes('second'), this.second);
    const place = `database/${source}/${id}-${this.tries}`;
    const written: BackupManifest = JSON.parse(String(await this.place.read(`${place}/manifest.json`)));
    assert.deepEqual([written, rows.at(-1).manifest], [manifest, manifest]);
    const hashes = await this.hashes('own');
    for (const { name, sha256 } of written.content.files) assert.equal(hashes[name], sha256, name);
    const drill = await namespace.orchestrator.startRestoreDrill({ backup: id! });
    const { evidence } = await drill.result();
    assert.deepEqual([evidence?.differences, evidence!.compared > 0], [[], true]);
    assert.deepEqual(await this.world.events(), [...Array(3).fill('backup.completed'), 'drill.passed']);
  }

  private start(key: string) {
    const { namespace, source } = this.world;
    return namespace.orchestrator.startBackup({ type: 'database', source }, key);
  }

  private async seen() {
    const { namespace, database } = this.world;
    const { raw } = await namespace.client.workflow.getHandle(`backup/${KEY}`).describe();
    const { rows } = await database.client.query(
      'SELECT idempotency_key AS key, id, state FROM orchestrator.backup',
    );
    const own = rows.find(({ key }) => key === KEY);
    this.id = own?.id;
    return {
      activities: raw.pendingActivities?.map(({ activityType }) => activityType?.name),
      row: own?.state ?? 'none',
      oldest: rows.find(({ key }) => key === 'oldest').state,
      files: await this.files(),
    };
  }

  private expected({ activity, row, oldest, files = [], onDisk = [], old }: Step) {
    const own = [...files, ...(this.place.kind === 'filesystem' ? onDisk : [])];
    return {
      activities: [activity],
      row: row ?? 'running',
      oldest: oldest ?? 'verified',
      files: [
        ...own.map((file) => (file.includes('/') ? file : `own/${file}`)),
        ...(old ?? WHOLE).map((file) => `oldest/${file}`),
        ...WHOLE.map((file) => `second/${file}`),
        'stranded/data',
      ].sort(),
    };
  }

  /** All that lies at the destination, by the names of the directories; one that has none has its own. */
  private async files(): Promise<string[]> {
    const found = await this.place.files();
    return found
      .map((file) => {
        const [, , directory = '', name] = file.split('/');
        return `${this.nameOf(directory)}/${name}`;
      })
      .sort();
  }

  private nameOf(directory: string): string {
    if (directory === `${this.id}-${this.tries}`) return 'own';
    if (directory === `${this.id}-${this.tries - 1}`) return 'before';
    return this.names.get(directory) ?? directory;
  }

  private async hashes(of: string): Promise<Record<string, string>> {
    const hashes: Record<string, string> = {};
    for (const file of await this.place.files()) {
      const [, , directory = '', name = ''] = file.split('/');
      if (this.nameOf(directory) !== of) continue;
      hashes[name] = createHash('sha256')
        .update(await this.place.read(file))
        .digest('hex');
    }
    return hashes;
  }

  /** Those of workers and of what they have started. */
  private async sessions(): Promise<number[]> {
    const { rows } = await this.world.database.client.query(
      `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name <> ''`,
    );
    return rows.map(({ pid }) => pid);
  }
}

const programsOf = async (pid: number): Promise<number[]> =>
  (await Promise.all(['pg_dump', 'pg_dumpall'].map((program) => childrenRunning(program, pid)))).flat();
