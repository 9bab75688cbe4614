import {
  ActivityFailure,
  ApplicationFailure,
  allHandlersFinished,
  CancellationScope,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  isCancellation,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { HealthActivities } from '../activities/health.ts';
import type { HealthRecordActivities } from '../activities/healthRecords.ts';
import type { HealthTransition } from '../domain/health.ts';
import type { ComponentName } from '../domain/healthComponents.ts';
import { advance, unsettled } from '../domain/healthCycle.ts';
import {
  checkedMaintenance,
  completed,
  type HealthCheckInput,
  type HealthMemory,
  healthInputFaults,
  isWritten,
  lastTransitions,
  maintained,
  nothingKnown,
  remembered,
  written,
} from '../domain/healthMemory.ts';
import {
  type Breakers,
  breakersOf,
  type ComponentDetails,
  componentDetails,
  describeHealth,
  type HealthStatus,
  statusOf,
} from '../domain/healthStatus.ts';
import { measureHealth } from './healthMetrics.ts';

export const healthStatusQuery = defineQuery<HealthStatus>('status');
export const componentQuery = defineQuery<ComponentDetails, [name: string]>('component');
export const healthHistoryQuery = defineQuery<HealthTransition[], [limit?: number]>('history');
export const breakersQuery = defineQuery<Breakers>('breakers');
export const checkNowSignal = defineSignal('checkNow');
export const pauseHealthSignal = defineSignal('pause');
export const resumeHealthSignal = defineSignal('resume');
export const maintenanceSignal = defineSignal<[{ component: string; until: string | null }]>('maintenance');

const { probeComponents } = proxyActivities<HealthActivities>({
  // A probe's own limit ends it; this is for a worker that hangs.
  startToCloseTimeout: '6 minutes',
  heartbeatTimeout: '10 seconds',
  retry: { initialInterval: '1 second', maximumInterval: '10 seconds' },
});
// While Postgres is away the cycles go on, and each of them tries again to write what is still to be written.
const { recordHealth } = proxyActivities<HealthRecordActivities>({
  startToCloseTimeout: '15 seconds',
  scheduleToCloseTimeout: '20 seconds',
  retry: { maximumAttempts: 1 },
});
const { sendHealthWebhook } = proxyActivities<HealthRecordActivities>({
  startToCloseTimeout: '15 seconds',
  retry: { initialInterval: '2 seconds', maximumInterval: '5 minutes' },
});

/** A notice that is older is not posted any more; Kafka has it. */
const WEBHOOK_PATIENCE_MS = 24 * 3_600_000;
const LAST_TRY_MS = 15_000;

/**
 * Checks all components for ever: every 30 seconds (or `intervalSeconds`), and again within seconds where a component
 * seems to have changed.
 *
 *   probe all ─▶ weigh ─▶ find roots ─▶ write down ─▶ anything unsettled? ─no──▶ wait for the next cycle, or checkNow
 *                  ▲                                          │ yes
 *                  └────────── probe what is unsettled ◀──────┘ at once, then every few seconds
 *
 * All that is known lives here and outlives workers. What Postgres cannot take now is written when it is back.
 */
export async function healthCheckCycle(input: HealthCheckInput = {}): Promise<void> {
  const faults = healthInputFaults(workflowInfo().workflowId, input);
  if (faults.length > 0) throw ApplicationFailure.nonRetryable(faults.join('; '), 'invalid_input');
  const check = new HealthCheck(input);
  handle(check);
  while (!check.isHistoryLong()) {
    if (check.memory.paused) await condition(() => !check.memory.paused || check.isHistoryLong());
    else await check.cycle();
  }
  check.stopSending();
  await condition(allHandlersFinished);
  await continueAsNew<typeof healthCheckCycle>({ ...input, memory: check.memory });
}

function handle(check: HealthCheck): void {
  setHandler(healthStatusQuery, () => statusOf(check.memory), {
    description: 'the level of everything, the roots of outages and what they affect',
  });
  setHandler(componentQuery, (name) => componentDetails(check.memory, name), {
    description: 'one component: its last probes, its breaker, what it depends on, what people were told',
  });
  setHandler(healthHistoryQuery, (limit) => lastTransitions(check.memory, limit), {
    description: 'the last transitions, the newest first; 50 or as many as asked for, of the last 200',
  });
  setHandler(breakersQuery, () => breakersOf(check.memory), { description: 'the circuit breakers' });
  setHandler(checkNowSignal, () => check.wake(), { description: 'checks everything now' });
  setHandler(pauseHealthSignal, () => check.pause(), { description: 'checks nothing until resumed' });
  setHandler(resumeHealthSignal, () => check.resume(), { description: 'checks again, at once' });
  setHandler(maintenanceSignal, (order) => check.maintain(order), {
    description:
      'no notices of {component} (a name, or "all") until {until}; null ends it. Checking goes on; afterwards people are told what differs',
  });
}

function messageOf(error: unknown): string {
  const cause = error instanceof ActivityFailure ? error.cause : undefined;
  if (cause instanceof ApplicationFailure && cause.type) return `${cause.type}: ${cause.message}`;
  return cause?.message ?? String(error);
}

class HealthCheck {
  readonly memory: HealthMemory;
  private readonly input: HealthCheckInput;
  private awake = false;
  private sending: CancellationScope | undefined;

  constructor(input: HealthCheckInput) {
    this.input = input;
    this.memory = input.memory ? completed(input.memory, Date.now()) : nothingKnown(Date.now());
    this.send();
    this.describe();
  }

  /** Everything once, then what is unsettled, then the wait for the next time. */
  async cycle(): Promise<void> {
    const began = Date.now();
    this.awake = false;
    await this.probe(undefined);
    const next = began + this.intervalMs();
    await this.confirm(next);
    await this.sleep(next - Date.now());
  }

  isHistoryLong(): boolean {
    const { continueAsNewSuggested, historyLength } = workflowInfo();
    const { historyLimit } = this.input;
    return continueAsNewSuggested || (historyLimit !== undefined && historyLength >= historyLimit);
  }

  wake(): void {
    this.awake = true;
  }

  pause(): void {
    this.memory.paused = true;
    this.wake();
    this.describe();
  }

  resume(): void {
    this.memory.paused = false;
    this.describe();
  }

  maintain(order: unknown): void {
    const checked = checkedMaintenance(order, Date.now());
    // Anybody can send a signal; one that makes no sense must not become a failing workflow task.
    if (typeof checked === 'string') this.memory.lastError = checked;
    else maintained(this.memory, checked, Date.now());
    this.wake();
  }

  stopSending(): void {
    this.sending?.cancel();
  }

  /** The first time at once, then every few seconds, until it is confirmed or not; never for longer than that takes. */
  private async confirm(next: number): Promise<void> {
    const { plan } = this.memory;
    if (!plan) return;
    const { down, up, softIntervalSeconds } = plan.rules;
    for (let times = 0; times < Math.max(down, up); times += 1) {
      const names = unsettled(plan, this.memory.components);
      if (names.length === 0 || this.awake || this.isHistoryLong()) return;
      if (times > 0) await this.sleep(softIntervalSeconds * 1000);
      if (this.awake || Date.now() >= next) return;
      await this.probe(names);
    }
  }

  private async probe(only: ComponentName[] | undefined): Promise<void> {
    const { memory } = this;
    const request = { planVersion: memory.plan?.version ?? null, ...(only && { only }) };
    const { plan = memory.plan, results } = await probeComponents.executeWithOptions(
      { summary: only ? only.join(', ') : 'all components' },
      [request],
    );
    if (!plan) return;
    const moment = { now: Date.now(), full: only === undefined, random: Math.random };
    const { components, record } = advance(plan, memory.components, results, moment);
    remembered(memory, { plan, components, record, now: moment.now });
    measureHealth(plan, components, record, moment.now);
    this.describe();
    await this.write();
    this.send();
  }

  private async write(): Promise<void> {
    if (isWritten(this.memory)) return;
    const record = this.memory.unwritten;
    try {
      await recordHealth(record);
      written(this.memory, record);
      this.memory.lastError = null;
    } catch (error) {
      if (isCancellation(error)) throw error;
      this.memory.lastError = messageOf(error);
    }
  }

  /** Beside the cycles: a webhook that is away must not keep them waiting. One notice after the other. */
  private send(): void {
    if (this.sending || this.memory.unsent.length === 0) return;
    const scope = new CancellationScope();
    this.sending = scope;
    void scope
      .run(() => this.sendAll())
      .finally(() => {
        if (this.sending === scope) this.sending = undefined;
      });
  }

  private async sendAll(): Promise<void> {
    const { unsent } = this.memory;
    for (let notice = unsent[0]; notice; notice = unsent[0]) {
      try {
        const left = Date.parse(notice.payload.timestamp) + WEBHOOK_PATIENCE_MS - Date.now();
        const scheduleToCloseTimeout = Math.max(LAST_TRY_MS, left);
        const posted = sendHealthWebhook.executeWithOptions({ scheduleToCloseTimeout }, [notice]);
        if ((await posted) === 'off') unsent.length = 0;
        this.memory.webhookError = null;
      } catch (error) {
        // The next run goes on with it.
        if (isCancellation(error)) return;
        this.memory.webhookError = messageOf(error);
      }
      unsent.shift();
    }
  }

  private async sleep(ms: number): Promise<void> {
    if (ms > 0) await condition(() => this.awake || this.isHistoryLong(), ms);
  }

  private intervalMs(): number {
    return 1000 * (this.input.intervalSeconds ?? this.memory.plan?.intervalSeconds ?? 30);
  }

  private describe(): void {
    setCurrentDetails(describeHealth(this.memory));
  }
}
