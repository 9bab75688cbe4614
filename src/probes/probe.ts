import type { ConnectionLike } from '@temporalio/client';
import type { ProbeResult } from '../domain/health.ts';
import type { ComponentName } from '../domain/healthComponents.ts';
import { explain, isOurOwn, isUnrouted, shorten } from './failure.ts';
import { probeFilesystem } from './filesystem.ts';
import type { Finding } from './finding.ts';
import { judgeGroup } from './group.ts';
import { probeHttp, probeSomaBrain } from './http.ts';
import { probeRedis, probeRedisStore } from './redis.ts';
import { probeS3 } from './s3.ts';
import { type StallWatch, watchStalls } from './stalls.ts';
import type { BackupsTarget, ComponentProbing, ProbeTarget, Probing } from './target.ts';
import { probeTemporal } from './temporal.ts';

/** The probes whose clients belong to other adapters, and the connection for those of Temporal. */
export interface ProbeTools {
  probePostgres(url: string, signal: AbortSignal): Promise<void>;
  probeBackups(target: BackupsTarget, signal: AbortSignal): Promise<Finding | undefined>;
  probeKafka(signal: AbortSignal): Promise<void>;
  temporal: ConnectionLike;
}

interface Round {
  tools: ProbeTools;
  cancelled: AbortSignal;
  stalls: StallWatch;
}

/**
 * Probes everything at once, each within its own limit, and never throws. A probe that is over has closed what it
 * opened: a limit that is passed, and `cancelled`, destroy its connections.
 *
 * `down` is what a component did. What this process or its host did is `unknown`: no more files or ports, and a limit
 * that passed while its event loop stood still for more than half of it.
 */
export async function probeAll(
  probing: Partial<Record<ComponentName, ComponentProbing>>,
  tools: ProbeTools,
  cancelled: AbortSignal = new AbortController().signal,
): Promise<Partial<Record<ComponentName, ProbeResult>>> {
  const round = { tools, cancelled, stalls: watchStalls() };
  try {
    const results = Object.entries(probing).map(
      async ([name, component]) => [name, await probeComponent(component, round)] as const,
    );
    return Object.fromEntries(await Promise.all(results));
  } finally {
    round.stalls.stop();
  }
}

async function probeComponent(component: ComponentProbing, round: Round): Promise<ProbeResult> {
  if (!('members' in component)) return probeOne(component, round);
  const members = Object.entries(component.members).map(
    async ([name, member]): Promise<[string, ProbeResult]> => [name, await probeOne(member, round)],
  );
  return judgeGroup(await Promise.all(members));
}

async function probeOne({ target, limitSeconds }: Probing, round: Round): Promise<ProbeResult> {
  const started = performance.now();
  const seconds = () => Math.round(performance.now() - started) / 1000;
  const limit = new Limit(limitSeconds * 1000);
  const signal = AbortSignal.any([limit.signal, round.cancelled]);
  try {
    const finding = await Promise.race([send(target, round.tools, signal), aborted(signal)]);
    // An answer that waited for this worker itself was not slow.
    const answered = Math.max(0, seconds() - round.stalls.stalledMs() / 1000);
    if (!finding) return { outcome: 'up', seconds: answered };
    return { outcome: 'up', seconds: answered, ...finding, error: shorten(finding.error) };
  } catch (error) {
    if (round.cancelled.aborted)
      return { outcome: 'unknown', seconds: seconds(), error: 'the probing was cancelled' };
    if (limit.passed) return late(limitSeconds, seconds(), round.stalls);
    const outcome = isOurOwn(error) ? 'unknown' : 'down';
    const unrouted = isUnrouted(error) && { unrouted: true };
    return { outcome, seconds: seconds(), ...unrouted, error: explain(error, target) };
  } finally {
    limit.end();
  }
}

function late(limitSeconds: number, seconds: number, stalls: StallWatch): ProbeResult {
  const stalledSeconds = stalls.stalledMs() / 1000;
  if (stalledSeconds <= limitSeconds / 2)
    return { outcome: 'down', seconds, timedOut: true, error: `no answer within ${limitSeconds} s` };
  const error = `this worker itself stood still for ${stalledSeconds.toFixed(1)} s`;
  return { outcome: 'unknown', seconds, timedOut: true, error };
}

async function send(
  target: ProbeTarget,
  { probePostgres, probeBackups, probeKafka, temporal }: ProbeTools,
  signal: AbortSignal,
): Promise<Finding | undefined> {
  switch (target.kind) {
    case 'http':
      return probeHttp(target.url, signal);
    case 'backups':
      return probeBackups(target, signal);
    case 'postgres':
      await probePostgres(target.url, signal);
      break;
    case 'kafka':
      await probeKafka(signal);
      break;
    case 'redis':
      await probeRedis(target.url, signal);
      break;
    case 'temporal':
      await probeTemporal(temporal, signal);
      break;
    case 'somabrain':
      await probeSomaBrain(target.url, signal);
      break;
    case 's3':
      await probeS3(target, signal);
      break;
    case 'filesystem':
      await probeFilesystem(target.root);
      break;
    case 'redisStore':
      await probeRedisStore(target.url, signal);
      break;
  }
  return undefined;
}

/** Aborts its signal when the time has passed, or at the end, for what is still open then. */
class Limit {
  passed = false;
  private readonly controller = new AbortController();
  private readonly timer: NodeJS.Timeout;

  constructor(ms: number) {
    this.timer = setTimeout(() => {
      this.passed = true;
      this.controller.abort();
    }, ms);
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  end(): void {
    clearTimeout(this.timer);
    this.controller.abort();
  }
}

const aborted = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
