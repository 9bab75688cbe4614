export { outboxRelay } from './outbox.ts';
