import { type Dialogue, FaultProxy, type Message } from './faultProxy.ts';
import { splitter } from './splitter.ts';
import { testStack } from './stack.ts';

/** A proxy to the run's Postgres. */
export const postgresProxy = (): Promise<FaultProxy> =>
  FaultProxy.to(testStack().ports.postgres, postgresDialogue);

/** A database's address, by way of the proxy. */
export const through = ({ port }: FaultProxy, databaseUrl: string): string =>
  Object.assign(new URL(databaseUrl), { port: String(port) }).href;

const [SIMPLE_QUERY, PARSE, SYNC] = ['Q', 'P', 'S'];
const [COMPLETE, ERROR, READY] = ['C', 'E', 'Z'];

/**
 * A message is one letter, its length in 32 bits without the letter, and its content; only the client's first has no
 * letter. A request's kind is the first word of its SQL: COMMIT. Its outcome is the response of that kind.
 */
function postgresDialogue(): Dialogue {
  let greeted = false;
  /** Of the statements whose end the server has not told yet; the greeting ends like one. */
  const words: (string | undefined)[] = [undefined];
  let parsed: string | undefined;
  const request = (bytes: Buffer): Message => {
    if (!greeted) {
      greeted = true;
      return { bytes };
    }
    const letter = String.fromCharCode(bytes[0]!);
    if (letter === SIMPLE_QUERY) {
      const kind = firstWord(bytes, 5);
      words.push(kind);
      return { bytes, kind };
    }
    if (letter === PARSE) parsed = firstWord(bytes, bytes.indexOf(0, 5) + 1);
    if (letter !== SYNC) return { bytes };
    words.push(parsed);
    parsed = undefined;
    return { bytes, kind: words.at(-1) };
  };

  const response = (bytes: Buffer): Message => {
    const letter = String.fromCharCode(bytes[0]!);
    const kind = letter === COMPLETE || letter === ERROR ? words[0] : undefined;
    if (letter === READY) words.shift();
    return { bytes, kind };
  };

  return {
    request: splitter((bytes) => lengthBehind(greeted ? 1 : 0, bytes), request),
    response: splitter((bytes) => lengthBehind(1, bytes), response),
  };
}

const lengthBehind = (letter: 0 | 1, bytes: Buffer): number | undefined =>
  bytes.length < letter + 4 ? undefined : letter + bytes.readInt32BE(letter);

const firstWord = (bytes: Buffer, start: number): string | undefined =>
  /^\s*([a-z]+)/i.exec(bytes.toString('utf8', start, start + 40))?.[1]?.toUpperCase();
