import { Runtime } from '@temporalio/worker';
import type { BackupTimes } from './domain/backupFreshness.ts';

/** Sets the gauges of backups to what the catalogue says now. A backup counts as a success when it is verified. */
export function measureBackups(all: BackupTimes[]): void {
  const meter = Runtime.instance().metricMeter;
  const gauge = (name: string, description: string) =>
    meter.createGauge(name, 'float', undefined, description);
  const success = gauge('backup_last_success_timestamp_seconds', 'when the last good backup was finished');
  const verified = gauge('backup_last_verified_timestamp_seconds', 'when the last good backup was verified');
  const restored = gauge('backup_last_restored_timestamp_seconds', 'when a drill last restored one');
  const failed = gauge('backup_last_run_failed', '1 if the newest run that ended failed');
  const drill = gauge('backup_last_drill_failed', '1 if the newest drill failed');
  const size = gauge('backup_size_bytes', 'of the last good one, as it lies at the destination');
  const duration = gauge('backup_duration_seconds', 'of the last good one, with its verification');
  for (const times of all) {
    const { type, source, destination, lastVerifiedAt, lastRestoredAt } = times;
    const tags = { type, source, destination };
    failed.set(times.lastState === 'failed' ? 1 : 0, tags);
    if (lastVerifiedAt !== null) {
      success.set(lastVerifiedAt / 1000, tags);
      verified.set(lastVerifiedAt / 1000, tags);
    }
    if (lastRestoredAt !== null) restored.set(lastRestoredAt / 1000, tags);
    if (times.lastDrillPassed !== null) drill.set(times.lastDrillPassed ? 0 : 1, tags);
    if (times.size !== null) size.set(times.size, tags);
    if (times.durationSeconds !== null) duration.set(times.durationSeconds, tags);
  }
}
