// The examples of property tests are the same in each run, so that what fails is the change at hand; other examples by
// `PROPERTY_SEED=<number> npm test -- <files>`.
import fc from 'fast-check';

fc.configureGlobal({ seed: Number(process.env.PROPERTY_SEED ?? 20251123) });
