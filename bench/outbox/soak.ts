import { setTimeout as delay } from 'node:timers/promises';
import { relayWorkflowId } from '../../src/domain/outbox.ts';
import type { Reporter } from '../report.ts';
import { consume, writeAndWait } from './latency.ts';
import { memoryOf } from './process.ts';
import { type RelayDeployment, relayDeployment } from './workers.ts';

export interface SoakPlan {
  minutes: number;
  rate: number;
}

const SHARDS = 2;
/** What Temporal counts as an action, as far as a history shows it: starts, signals, activities, timers. */
const ACTIONS = [
  'workflowExecutionStartedEventAttributes',
  'workflowExecutionSignaledEventAttributes',
  'activityTaskScheduledEventAttributes',
  'timerStartedEventAttributes',
] as const;

/** A worker under a steady load: its memory each minute, and the Temporal actions of its shards. */
export async function measureSoak(reporter: Reporter, { minutes, rate }: SoakPlan): Promise<void> {
  await using deployment = await relayDeployment(SHARDS);
  const worker = await deployment.start();
  await using consumer = await consume([deployment.topic]);
  const route = { deployment, consumer };
  await writeAndWait(route, rate * 3, 1000 / rate);
  const before = await actionsOf(deployment);
  const started = Date.now();
  for (let minute = 1; minute <= minutes; minute += 1) {
    await writeAndWait(route, rate * 60, 1000 / rate);
    reporter.emit('soak_memory', memoryOf(worker.process.pid!).now, 'MiB', { minute, rate });
  }
  // The last report comes up to ten seconds later.
  await delay(10_000);
  const actions = (await actionsOf(deployment)) - before;
  const perMinute = actions / ((Date.now() - started) / 60_000) / SHARDS;
  reporter.emit('soak_temporal_actions_per_shard', perMinute, 'a minute', { rate });
}

/** Of the current runs: a soak ends long before one continues as new. */
async function actionsOf({ temporal }: RelayDeployment): Promise<number> {
  let actions = 0;
  for (let shard = 0; shard < SHARDS; shard += 1) {
    const { events } = await temporal.workflow.getHandle(relayWorkflowId(shard)).fetchHistory();
    actions += (events ?? []).filter((event) => ACTIONS.some((kind) => event[kind])).length;
  }
  return actions;
}
