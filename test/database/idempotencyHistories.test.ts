import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type pg from 'pg';
import { complete, type Hold, release, renew } from '../../src/database/idempotency.ts';
import { purgeBatch } from '../../src/database/maintenance.ts';
import { OrchestratorError } from '../../src/domain/errors.ts';
import { purgeStart } from '../../src/domain/maintenance.ts';
import { outboxDatabase } from '../support/database.ts';
import { claim, djangoCheckAndSet, djangoStore, expire } from '../support/idempotency.ts';

type Step =
  | { does: 'claim'; operation: string; payloadHash: string | null }
  /** `nth`: of all holds that were ever given out, so most are long lost. */
  | { does: 'renew' | 'release'; nth: number }
  | { does: 'complete'; nth: number; result: number }
  | { does: 'expire' | 'purge' }
  | { does: 'djangoSet'; operation: string }
  | { does: 'djangoStore'; result: number };

type HolderStep = Extract<Step, { nth: number }>;

/** The reference: what one record should say, in plain words. */
interface Model {
  operation: string;
  payloadHash: string | null;
  /** Which claim made it; null: Django. */
  holder: number | null;
  completed: boolean;
  result: number | null;
  expired: boolean;
}

class Reference {
  record: Model | null = null;
  holds = 0;

  /** What the step should answer. */
  take(step: Step): string {
    const { record } = this;
    const live = record !== null && !record.expired;
    switch (step.does) {
      case 'claim':
        return live ? met(record, step) : this.claimed(step);
      case 'expire':
        if (record) record.expired = true;
        return 'done';
      case 'purge':
        if (!live) this.record = null;
        return 'done';
      case 'djangoSet':
        if (live) return `found ${record.result}`;
        this.record = {
          ...step,
          payloadHash: null,
          holder: null,
          completed: true,
          result: null,
          expired: false,
        };
        return 'new';
      case 'djangoStore':
        if (record?.holder === null) record.result = step.result;
        return 'done';
      default:
        return this.byHolder(step);
    }
  }

  private claimed({ operation, payloadHash }: Step & { does: 'claim' }): string {
    const holder = this.holds;
    this.holds += 1;
    this.record = { operation, payloadHash, holder, completed: false, result: null, expired: false };
    return 'run';
  }

  private byHolder(step: HolderStep): string {
    const { record } = this;
    if (this.holds === 0) return 'no hold yet';
    const held = record !== null && record.holder === step.nth % this.holds;
    if (step.does === 'release') {
      if (held && !record.completed) this.record = null;
      return 'done';
    }
    if (!held || (step.does === 'renew' && record.completed)) return 'idempotency_lost';
    record.expired = false;
    if (step.does === 'complete' && !record.completed)
      Object.assign(record, { completed: true, result: step.result });
    return 'done';
  }
}

function met(record: Model, { operation, payloadHash }: Step & { does: 'claim' }): string {
  const both = payloadHash !== null && record.payloadHash !== null;
  if (record.operation !== operation || (both && record.payloadHash !== payloadHash))
    return 'idempotency_mismatch';
  return record.completed ? `completed ${record.result}` : 'in_progress';
}

class Database {
  readonly holds: Hold[] = [];
  private readonly clients: pg.Client[];

  constructor(clients: pg.Client[]) {
    this.clients = clients;
  }

  async take(step: Step, turn: number): Promise<string> {
    const client = this.clients[turn % this.clients.length]!;
    try {
      return await this.taken(client, step);
    } catch (error) {
      if (error instanceof OrchestratorError) return error.code;
      throw error;
    }
  }

  private async taken(client: pg.Client, step: Step): Promise<string> {
    switch (step.does) {
      case 'claim': {
        const claimed = await claim(client, step);
        if (claimed.outcome === 'run') this.holds.push(claimed.hold);
        return claimed.outcome === 'completed' ? `completed ${claimed.result}` : claimed.outcome;
      }
      case 'expire':
        await expire(client);
        return 'done';
      case 'purge':
        await purgeBatch(
          client,
          { stage: 'idempotency', from: purgeStart().from },
          { dryRun: false, retentionDays: 7 },
        );
        return 'done';
      case 'djangoSet': {
        const { isNew, result } = await djangoCheckAndSet(client, 'k', step.operation);
        return isNew ? 'new' : `found ${result}`;
      }
      case 'djangoStore':
        await client.query('BEGIN');
        await djangoStore(client, step.result);
        await client.query((await this.isDjangos(client)) ? 'COMMIT' : 'ROLLBACK');
        return 'done';
      default:
        return this.byHolder(client, step);
    }
  }

  /** Django stores results under keys only that it took itself. */
  private async isDjangos(client: pg.Client): Promise<boolean> {
    const { rowCount } = await client.query(
      'SELECT FROM core_idempotencyrecord WHERE own_expires_at IS DISTINCT FROM expires_at',
    );
    return rowCount === 1;
  }

  private async byHolder(client: pg.Client, step: HolderStep): Promise<string> {
    const held = this.holds[step.nth % this.holds.length];
    if (!held) return 'no hold yet';
    if (step.does === 'complete') await complete(client, held, step.result);
    else await (step.does === 'renew' ? renew : release)(client, held);
    return 'done';
  }
}

const operation = fc.constantFrom('op', 'op', 'op', 'other');
const nth = fc.nat(50);
const result = fc.nat(99);
const does = <D extends Step['does']>(...names: D[]) => ({ does: fc.constantFrom(...names) });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ ...does('claim'), operation, payloadHash: fc.constantFrom(null, 'a', 'a', 'b') }),
  },
  { weight: 4, arbitrary: fc.record({ ...does('renew', 'release'), nth }) },
  { weight: 3, arbitrary: fc.record({ ...does('complete'), nth, result }) },
  { weight: 3, arbitrary: fc.record(does('expire')) },
  { weight: 1, arbitrary: fc.record(does('purge')) },
  { weight: 1, arbitrary: fc.record({ ...does('djangoSet'), operation }) },
  { weight: 1, arbitrary: fc.record({ ...does('djangoStore'), result }) },
);

test('Whatever callers, Django and purges do in whatever order, each gets the answer of the reference', async () => {
  await using database = await outboxDatabase();
  const clients = [database.client, await database.connect(), await database.connect()];
  const answers = new Map<string, number>();
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 40 }), async (steps) => {
      await database.client.query('DELETE FROM core_idempotencyrecord');
      const reference = new Reference();
      const real = new Database(clients);
      for (const [turn, next] of steps.entries()) {
        const expected = reference.take(next);
        assert.equal(await real.take(next, turn), expected, `step ${turn}: ${JSON.stringify(next)}`);
        const answer = `${next.does}: ${expected.split(' ')[0]}`;
        answers.set(answer, (answers.get(answer) ?? 0) + 1);
      }
    }),
    { numRuns: 100 },
  );
  // What the random steps have to have come by.
  for (const answer of [
    'claim: run',
    'claim: completed',
    'claim: in_progress',
    'claim: idempotency_mismatch',
    'renew: done',
    'renew: idempotency_lost',
    'complete: done',
    'complete: idempotency_lost',
    'djangoSet: new',
    'djangoSet: found',
  ]) {
    assert.ok(
      (answers.get(answer) ?? 0) >= 5,
      `${answer}: ${answers.get(answer)} of ${JSON.stringify([...answers])}`,
    );
  }
});
