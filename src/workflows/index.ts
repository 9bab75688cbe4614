export { deadLetterReplay } from './deadLetters.ts';
export { maintenance } from './maintenance.ts';
export { outboxRelay } from './outbox.ts';
export { outboxDelivery } from './outboxDelivery.ts';
