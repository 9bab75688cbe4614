import type { MemorySyncReport, MemorySyncState } from './memories.ts';

// What comes to memorySync from outside: anybody can start it or signal it.

/** A run has three events before its first line: with fewer it would only ever continue as new. */
const MIN_HISTORY = 5;
const STATES: unknown[] = ['syncing', 'idle', 'paused', 'waiting'] satisfies MemorySyncState[];

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const areNumbers = (...values: unknown[]): boolean => values.every((value) => Number.isFinite(value));
const isTextOrNull = (value: unknown): boolean => value === null || typeof value === 'string';

/** One sentence for each field at fault; none if the input is good. */
export function memoryInputFaults(input: unknown): string[] {
  if (!isObject(input)) return [`memorySync takes no input, or an object: got ${JSON.stringify(input)}`];
  const { status, historyLimit, ...others } = input;
  const faults = Object.keys(others).map((name) => `${name} is no field: expected historyLimit, or none`);
  if (historyLimit !== undefined && !(Number.isInteger(historyLimit) && Number(historyLimit) >= MIN_HISTORY))
    faults.push(
      `historyLimit must be a whole number from ${MIN_HISTORY} on: got ${JSON.stringify(historyLimit)}`,
    );
  if (status !== undefined && !isStatus(status))
    faults.push(
      `status is what an earlier run left, for a start leave it out: got ${JSON.stringify(status)}`,
    );
  return faults;
}

export function isMemoryReport(report: unknown): report is MemorySyncReport {
  if (!isObject(report) || report.state === 'paused' || !STATES.includes(report.state)) return false;
  return isTextOrNull(report.lastError) && (report.counts === null || areCounts(report.counts));
}

function isStatus(status: unknown): boolean {
  if (!areCounts(status) || !isObject(status) || !STATES.includes(status.state)) return false;
  return isTextOrNull(status.last_error) && typeof status.since === 'string';
}

function areCounts(counts: unknown): boolean {
  if (!isObject(counts)) return false;
  const { pending, oldest_seconds, synced_total, dead_total, synced_per_second, tenants } = counts;
  const isTenant = (value: unknown) =>
    isObject(value) && typeof value.tenant === 'string' && areNumbers(value.pending);
  return (
    areNumbers(pending, oldest_seconds, synced_total, dead_total, synced_per_second) &&
    Array.isArray(tenants) &&
    tenants.every(isTenant)
  );
}
