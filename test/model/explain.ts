// `node scripts/run.mjs test/model/explain.ts [<word>]`: the mutants (whose name has the word) and, step by step, the
// shortest ways into their faults.
import { explore } from './explore.ts';
import { mutantScenario, mutants } from './mutants.ts';

const [word = ''] = process.argv.slice(2);

for (const { name, protocol, faults } of mutants.filter(({ name }) => name.includes(word))) {
  console.log(`\n${name}`);
  for (const [fault, way] of explore(mutantScenario(protocol), faults).faults) {
    console.log(`\n  ${fault}, after ${way.length} steps:`);
    for (const [index, step] of way.entries()) console.log(`  ${String(index + 1).padStart(4)}  ${step}`);
  }
}
