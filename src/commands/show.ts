import { readBacklog } from '../database/outbox.ts';
import type { TakeoverDecision } from '../domain/outboxTakeover.ts';
import { type Books, readBooks } from './books.ts';
import type { CommandContext } from './command.ts';

/** Says what Postgres and Kafka know about each shard. Changes nothing and fences nobody. */
export async function show(context: CommandContext): Promise<void> {
  const { client, deployment, say } = context;
  const { id, outboxShards } = deployment;
  say(`deployment ${id}, ${outboxShards} ${outboxShards === 1 ? 'shard' : 'shards'}`);
  for (const { shard, pending, parked } of await readBacklog(client, outboxShards)) {
    const books = await readBooks(context, shard);
    say('');
    say(`shard ${shard}`);
    say(`  rows       ${pending} pending, ${parked} parked`);
    say(`  owner      ${describeOwner(books)}`);
    say(`  Postgres   ${describeJournal(books)}`);
    say(`  Kafka      ${books.mark ? `batch ${books.mark.number} (${books.mark.batchId})` : 'no batch'}`);
    say(`  takeover   ${books.moving ? 'a relay is delivering' : describe(books.decision)}`);
  }
}

function describeOwner({ journal: { epoch, owner, takenAt } }: Books): string {
  return owner === null ? 'nobody yet' : `${owner}, epoch ${epoch}, since ${takenAt?.toISOString()}`;
}

function describeJournal({ journal: { settled, open } }: Books): string {
  const last = `batch ${settled.number} (${settled.batchId ?? 'none yet'}) settled`;
  return open
    ? `${last}, ${open.number} (${open.batchId}) open with ${open.seqs.length} rows`
    : `${last}, none open`;
}

function describe(decision: TakeoverDecision): string {
  switch (decision.kind) {
    case 'begin':
      return 'begins: nothing was sent yet';
    case 'proceed':
      return 'goes on: both sides agree';
    case 'settle':
      return 'settles the open batch: Kafka has it';
    case 'resend':
      return 'sends the open batch again: Kafka does not have it';
    case 'stop':
      return `STOPS, see \`npm run outbox -- repair\`: ${decision.reason}`;
  }
}
