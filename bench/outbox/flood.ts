import { percentile, type Reporter } from '../report.ts';
import { consume, writeAndWait } from './latency.ts';
import { relayDeployment } from './workers.ts';

export interface FloodPlan {
  rejected: number;
  rate: number;
  seconds: number;
}

/** What each flood consists of: rows that no record can be made of, and rows that only their topic refuses. */
const FLOODS: Record<string, (topic: string) => { topic: string; headers: string }> = {
  bad_headers: (topic) => ({ topic, headers: '[]' }),
  bad_topic: () => ({ topic: 'no such topic', headers: '{}' }),
};

/**
 * Latency of normal rows at a steady pace, before and during a flood of rejected ones: the flood comes at the
 * beginning of the window, and its retries (after 2, 4, 8 and 16 s) fall into it.
 */
export async function measureFlood(
  reporter: Reporter,
  { rejected, rate, seconds }: FloodPlan,
): Promise<void> {
  for (const [kind, rowOf] of Object.entries(FLOODS)) {
    await using deployment = await relayDeployment(2);
    await deployment.start();
    await using consumer = await consume([deployment.topic]);
    const route = { deployment, consumer };
    // A worker that has just started is slower for ten seconds and more.
    await writeAndWait(route, rate * 20, 1000 / rate);
    const before = await writeAndWait(route, rate * seconds, 1000 / rate);
    const { topic, headers } = rowOf(deployment.topic);
    await deployment.database.client.query(
      `INSERT INTO core_outboxmessage
         (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
       SELECT gen_random_uuid(), gen_random_uuid()::text, $2, 'bad-' || n % 1000, '{}', $3, now(), 0, 5, 'pending'
       FROM generate_series(1, $1) AS n`,
      [rejected, topic, headers],
    );
    const during = await writeAndWait(route, rate * seconds, 1000 / rate);
    for (const [name, latencies] of Object.entries({ before, during })) {
      reporter.emit(`flood_${kind}_${name}_p50`, percentile(latencies, 0.5), 'ms', { rejected, rate });
      reporter.emit(`flood_${kind}_${name}_p99`, percentile(latencies, 0.99), 'ms', { rejected, rate });
    }
    reporter.compare(`flood_${kind}_during_p99`, `flood_${kind}_before_p99`, 'the goal is 2 or less');
  }
}
