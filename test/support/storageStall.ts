// Begins to store 20 MiB under a key, says so when its source gives no more, and waits to be killed.
import { openTiers, type TierSettings } from '../../src/storage/tiers.ts';
import { contentOf, factsOf, never, stallingSource } from './storage.ts';

const [name, key, settings] = process.argv.slice(2);
const tier = openTiers(JSON.parse(settings!) as TierSettings).find((one) => one.name === name)!;
const bytes = contentOf(20 * 1024 * 1024);
const { open, stalled } = stallingSource(bytes.subarray(0, -1));
void stalled.then(() => console.log('stalled'));
setInterval(() => {}, 60_000);
await tier.store(key!, open, factsOf(bytes), never);
