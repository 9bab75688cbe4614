// The part of Redis's replication that a backup needs: the first dump.
//
//   AUTH, REPLCONF capa eof, PSYNC ? -1 ─▶ +FULLRESYNC … ─▶ $<length> and so many bytes, or
//                                                           $EOF:<mark of 40 bytes>, bytes, and the mark
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { failed, refused } from './names.ts';

const MARK_BYTES = 40;
/** While Redis prepares a dump it sends a line end every ten seconds, and data otherwise. */
const SILENCE_MS = 60_000;
const MAX_LINE = 1024;

/**
 * Asks Redis for a dump as a replica does, and closes the connection after it.
 * @throws OrchestratorError backup_failed (the connection ended before the dump did), backup_refused
 */
export async function* receiveDump(url: string, signal: AbortSignal): AsyncGenerator<Buffer> {
  signal.throwIfAborted();
  const socket = open(url);
  const cut = () => socket.destroy();
  signal.addEventListener('abort', cut, { once: true });
  try {
    const input = new Input(socket);
    await login(socket, input, url);
    // Older servers do not know the second.
    await ask(socket, input, ['REPLCONF', 'capa', 'eof']);
    await ask(socket, input, ['REPLCONF', 'rdb-only', '1']).catch(() => {});
    const answer = await ask(socket, input, ['PSYNC', '?', '-1']);
    if (!answer.startsWith('+FULLRESYNC')) throw refused(`Redis sends no dump: ${answer}`);
    yield* dump(input);
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener('abort', cut);
    socket.destroy();
  }
}

function open(url: string): Socket {
  const { protocol, hostname, port } = new URL(url);
  const host = hostname.replace(/^\[(.*)\]$/, '$1');
  const address = { host, port: Number(port || 6379) };
  const socket = protocol === 'rediss:' ? connectTls({ ...address, servername: host }) : connectTcp(address);
  socket.setTimeout(SILENCE_MS, () => socket.destroy(failed(`Redis is silent for ${SILENCE_MS / 1000} s`)));
  socket.on('error', () => {});
  return socket;
}

async function login(socket: Socket, input: Input, url: string): Promise<void> {
  const { username, password } = new URL(url);
  if (password === '') return;
  const words = [username, password].filter((word) => word !== '').map(decodeURIComponent);
  await ask(socket, input, ['AUTH', ...words]);
}

/** Sends a command and returns the line that answers it. An error is a definite no, unless the server is still loading. */
async function ask(socket: Socket, input: Input, words: string[]): Promise<string> {
  const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  socket.write(`*${words.length}\r\n${parts.join('')}`);
  const line = await input.line();
  if (!line.startsWith('-')) return line;
  const message = `Redis refuses ${words[0]}: ${line.slice(1)}`;
  throw /^-(LOADING|NOMASTERLINK|MASTERDOWN|BUSY|ERR Can't SYNC)/.test(line)
    ? failed(message)
    : refused(message);
}

async function* dump(input: Input): AsyncGenerator<Buffer> {
  const head = await input.line();
  const mark = /^\$EOF:(.{40})$/.exec(head)?.[1];
  const length = /^\$(\d+)$/.exec(head)?.[1];
  if (mark) yield* untilMark(input, Buffer.from(mark, 'latin1'));
  else if (length) yield* exactly(input, Number(length));
  else throw failed(`Redis announces no dump: ${head.slice(0, 100)}`);
}

async function* exactly(input: Input, length: number): AsyncGenerator<Buffer> {
  for (let left = length; left > 0; ) {
    const chunk = (await input.chunk()).subarray(0, left);
    left -= chunk.length;
    yield chunk;
  }
}

/** Nothing follows the mark, until a replica says that it has got it; so the stream's end is compared. */
async function* untilMark(input: Input, mark: Buffer): AsyncGenerator<Buffer> {
  let held: Buffer = Buffer.alloc(0);
  for (;;) {
    const bytes = Buffer.concat([held, await input.chunk()]);
    const keep = Math.max(0, bytes.length - MARK_BYTES);
    held = bytes.subarray(keep);
    if (keep > 0) yield bytes.subarray(0, keep);
    if (held.equals(mark)) return;
  }
}

/** What comes from the server, by lines and then by chunks, at the pace at which it is asked for. */
class Input {
  private readonly chunks: AsyncIterator<Buffer>;
  private rest: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.chunks = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  /** The next line that says something. */
  async line(): Promise<string> {
    for (;;) {
      const end = this.rest.indexOf('\n');
      if (end < 0 && this.rest.length > MAX_LINE) throw refused('what answers is no Redis');
      if (end < 0) {
        this.rest = Buffer.concat([this.rest, await this.next()]);
        continue;
      }
      const line = this.rest.subarray(0, end).toString('latin1').replace(/\r$/, '');
      this.rest = this.rest.subarray(end + 1);
      if (line !== '') return line;
    }
  }

  async chunk(): Promise<Buffer> {
    if (this.rest.length === 0) return this.next();
    const { rest } = this;
    this.rest = Buffer.alloc(0);
    return rest;
  }

  private async next(): Promise<Buffer> {
    const { value, done } = await this.chunks.next().catch((error: Error) => {
      throw failed(`the connection to Redis broke: ${error.message}`, { cause: error });
    });
    if (done) throw failed('Redis closed the connection before the dump was whole');
    return value;
  }
}
