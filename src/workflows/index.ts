export { deadLetterReplay } from './deadLetters.ts';
export { healthCheckCycle } from './health.ts';
export { maintenance } from './maintenance.ts';
export { memorySync } from './memory.ts';
export { outboxRelay } from './outbox.ts';
export { outboxDelivery } from './outboxDelivery.ts';
export { uploadRetry } from './uploads.ts';
