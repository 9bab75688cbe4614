// SomaBrain's stand-in as a process of its own: says its port, and stands until it is killed.
import { SomaBrainStandIn } from '../../stack/standIns/somabrain.ts';

const standIn = new SomaBrainStandIn();
await standIn.listen();
standIn.behave(JSON.parse(process.argv[2] ?? '{}'));
console.log(standIn.url);
