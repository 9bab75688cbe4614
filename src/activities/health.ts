import { cancellationSignal, heartbeat, metricMeter } from '@temporalio/activity';
import type { ConnectionLike } from '@temporalio/client';
import type { Logger } from 'pino';
import { probeBackups } from '../database/backupProbe.ts';
import { probePostgres } from '../database/probe.ts';
import type { ProbeReport, ProbeRequest } from '../domain/health.ts';
import type { KafkaConnection } from '../kafka/client.ts';
import { probeKafka } from '../kafka/probe.ts';
import { probeAll } from '../probes/probe.ts';
import type { HealthModel } from '../probes/target.ts';

export interface HealthDependencies {
  health: HealthModel;
  kafka: KafkaConnection;
  /** As `connectionForProbes` makes it. */
  temporal: ConnectionLike;
  logger: Logger;
}

/** A worker that dies is noticed by their absence, and another one probes. */
const HEARTBEAT_MS = 2_000;

export function createHealthActivities({ health, kafka, temporal, logger }: HealthDependencies) {
  const tools = {
    probePostgres,
    probeBackups,
    probeKafka: (signal: AbortSignal) => probeKafka(kafka, logger, signal),
    temporal,
  };
  return {
    /**
     * Probes the components at once, and takes as long as the slowest of them, at most its limit. What is asked for but
     * has no probe is left out. Brings the plan where the caller has another one.
     */
    async probeComponents({ only, planVersion }: ProbeRequest): Promise<ProbeReport> {
      const { plan, probing } = health;
      const chosen = only
        ? Object.fromEntries(Object.entries(probing).filter(([name]) => (only as string[]).includes(name)))
        : probing;
      const beating = setInterval(() => heartbeat(), HEARTBEAT_MS);
      try {
        const results = await probeAll(chosen, tools, cancellationSignal());
        // At the worker's stop another one probes anew.
        cancellationSignal().throwIfAborted();
        observeLatencies(results);
        return { ...(plan.version === planVersion ? {} : { plan }), results };
      } finally {
        clearInterval(beating);
      }
    },
  };
}

export type HealthActivities = ReturnType<typeof createHealthActivities>;

/** Only of what is up: how soon something refuses says nothing of how soon it answers. */
function observeLatencies(results: ProbeReport['results']): void {
  const latency = metricMeter.createHistogram(
    'service_latency_seconds',
    'float',
    undefined,
    'time that a component took to answer its probe',
  );
  for (const [service, { outcome, seconds }] of Object.entries(results))
    if (outcome === 'up') latency.record(seconds, { service });
}
