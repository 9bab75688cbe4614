import { constants } from 'node:fs';
import { open, realpath } from 'node:fs/promises';
import path from 'node:path';
import { addAbortSignal, Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { GetObjectCommand, S3Client, S3ServiceException } from '@aws-sdk/client-s3';
import { kindOf } from '../domain/consumedRecord.ts';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import { type ByteSource, FileBytes } from './byteSource.ts';
import { leaveBehind, unlessHanging } from './hanging.ts';

export interface UploadSourceOptions {
  /** Undefined: references to files are refused. */
  spoolDir: string | undefined;
  /** What s3:// and http(s):// references may begin with; each ends with a slash. The own bucket is always allowed. */
  allowed: readonly string[];
  /** Undefined: references to s3:// are refused. */
  s3: undefined | { endpoint: string; bucket: string; accessKeyId: string; secretAccessKey: string };
}

/** An http server or an S3 that sends nothing for so long is away. */
const SILENCE_MS = 30_000;

/**
 * What went wrong is the source's: no tier could have done better.
 * Its code is storage_unavailable (an outage) or upload_refused (not allowed, not there, not the promised size).
 */
export class SourceError extends OrchestratorError {}

const refused = (reason: string): SourceError => new SourceError('upload_refused', reason);
const away = (reason: string): SourceError => new SourceError('storage_unavailable', reason);

/**
 * The bytes behind references (`data_ref`), from where this service may read and from nowhere else:
 *
 * - `spool:<name>` and `file:///…`: regular files below the spool, whatever links say.
 * - `s3://bucket/key`: the own bucket, or what is on the allow-list, with the own endpoint and credentials.
 * - `http(s)://…`: what is on the allow-list; no redirects.
 */
export class UploadSources {
  private readonly options: UploadSourceOptions;
  private readonly s3: S3Client | undefined;

  constructor(options: UploadSourceOptions) {
    this.options = options;
    this.s3 = options.s3 && connect(options.s3);
  }

  /** Looks at the reference alone. @throws SourceError upload_refused, saying why */
  check(ref: string): void {
    this.parse(ref);
  }

  /**
   * The `size` bytes behind the reference; more or fewer end the stream with an error. All its errors are SourceErrors.
   * @throws SourceError
   */
  async open(ref: string, size: number, signal: AbortSignal): Promise<ByteSource> {
    const source = this.parse(ref);
    try {
      const bytes = await source.open(signal);
      return {
        [Symbol.asyncIterator]: () => measured(bytes, size, ref, signal),
        // A reader may go before it has read anything.
        destroy: () => bytes.destroy(),
      };
    } catch (error) {
      throw asSourceError(error, ref);
    }
  }

  close(): void {
    this.s3?.destroy();
  }

  private parse(ref: string): Source {
    if (ref.startsWith('spool:')) return this.spooled((dir) => spoolFile(dir, ref));
    const url = URL.parse(ref);
    if (url?.protocol === 'file:') return this.spooled(() => filePath(url));
    if (url?.protocol === 's3:') return this.object(ref);
    if (url?.protocol === 'http:' || url?.protocol === 'https:') return this.page(url);
    // What it is otherwise may hold a password.
    const got = url ? JSON.stringify(url.protocol) : kindOf(ref);
    throw refused(`data_ref must begin with spool:, file:///, s3://, http:// or https://: got ${got}`);
  }

  private spooled(locate: (spoolDir: string) => string): Source {
    const { spoolDir } = this.options;
    if (!spoolDir) throw refused('data_ref names a file, but SA01_SPOOL_DIR is not set');
    const file = locate(spoolDir);
    return {
      open: async (signal) => {
        const bytes = await unlessHanging(spoolDir, signal, () => openBelow(spoolDir, file));
        const leave = () => {
          bytes.destroy();
          leaveBehind(spoolDir, bytes.closed);
        };
        signal.addEventListener('abort', leave, { once: true });
        return bytes;
      },
    };
  }

  private object(ref: string): Source {
    const { s3, allowed } = this.options;
    const [, bucket, key] = /^s3:\/\/([\w.-]+)\/(.+)$/s.exec(ref) ?? [];
    if (!bucket || !key) throw refused('data_ref must be s3://bucket/key');
    // On the way to S3 these may be taken for directories, and lead out of what is allowed.
    if ([bucket, ...key.split(/[/\\]/)].some((segment) => segment === '.' || segment === '..'))
      throw refused('data_ref must not have . or .. between its slashes');
    const client = this.s3;
    if (!s3 || !client) throw refused('data_ref names an object, but SA01_S3_ENDPOINT is not set');
    if (bucket !== s3.bucket && !allowed.some((prefix) => ref.startsWith(prefix))) throw notAllowed(ref);
    return {
      open: async (signal) => {
        const get = new GetObjectCommand({ Bucket: bucket, Key: key });
        const { Body } = await answered(signal, (abortSignal) => client.send(get, { abortSignal }));
        return streamed(Body as Readable, signal);
      },
    };
  }

  private page(url: URL): Source {
    if (url.username || url.password) throw refused('data_ref must not hold a user name or a password');
    // A server may take an encoded slash for a slash, or `..;` for `..`, and so leave the directory that is allowed.
    const isPlain = !/%2f|%5c|%25|;/i.test(url.pathname);
    if (!isPlain || !this.options.allowed.some((prefix) => url.href.startsWith(prefix)))
      throw notAllowed(url.origin + url.pathname);
    return { open: async (signal) => streamed(await download(url, signal), signal) };
  }
}

/** Reading it again costs little. */
export const isFile = (ref: string): boolean => /^(spool|file):/i.test(ref);

interface Source {
  open(signal: AbortSignal): Promise<ByteSource>;
}

const notAllowed = (ref: string): SourceError =>
  refused(`data_ref is not below one of SA01_UPLOAD_SOURCES: ${JSON.stringify(ref.slice(0, 200))}`);

function spoolFile(spoolDir: string, ref: string): string {
  const name = ref.slice('spool:'.length);
  if (name === '' || name === '.' || name === '..' || /[/\\\0]/.test(name))
    throw refused('data_ref must be spool: and the name of a file in the spool, without a path');
  return path.join(spoolDir, name);
}

function filePath(url: URL): string {
  try {
    return fileURLToPath(url);
  } catch (error) {
    throw refused(`data_ref is no path of this host: ${describeError(error)}`);
  }
}

/** Opens what is really below the spool, and a file. */
async function openBelow(spoolDir: string, file: string): Promise<FileBytes> {
  // A spool that is not there is a mount that is away, and no missing file.
  const root = await realpath(spoolDir).catch((error: unknown) => {
    throw away(`the spool cannot be reached: ${describeError(error)}`);
  });
  const target = await realpath(file);
  if (!target.startsWith(root + path.sep)) throw refused('data_ref leads out of the spool');
  // Without NONBLOCK a FIFO would hold one of the process's few threads for ever.
  const handle = await open(target, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  if ((await handle.stat()).isFile()) return new FileBytes(handle);
  await handle.close();
  throw refused('data_ref is no regular file');
}

async function download(url: URL, signal: AbortSignal): Promise<Readable> {
  const response = await answered(signal, (within) =>
    fetch(url, { redirect: 'manual', headers: { 'accept-encoding': 'identity' }, signal: within }),
  );
  // An answer without a body is one of no bytes.
  if (response.ok) return response.body ? Readable.fromWeb(response.body) : Readable.from([]);
  await response.body?.cancel();
  const passes = response.status >= 500 || [408, 425, 429].includes(response.status);
  throw (passes ? away : refused)(`${url.origin} answers ${response.status}`);
}

/** The beginning of an answer; one that does not begin is an outage. */
async function answered<T>(signal: AbortSignal, ask: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    return await ask(AbortSignal.any([signal, silence.signal]));
  } catch (error) {
    throw silence.signal.aborted && !signal.aborted ? silent() : error;
  } finally {
    clearTimeout(timer);
  }
}

const silent = (): SourceError => away(`data_ref: no answer in ${SILENCE_MS / 1000} s`);

/** Ends with an error when `signal` aborts; whoever reads sees the errors. */
const streamed = (bytes: Readable, signal: AbortSignal): Readable =>
  addAbortSignal(signal, bytes).on('error', () => {});

/** Hands the bytes on, as many as were promised. */
async function* measured(
  bytes: ByteSource,
  size: number,
  ref: string,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const chunks = bytes[Symbol.asyncIterator]();
  let read = 0;
  try {
    for (;;) {
      // Only the source's silence counts, not that of a slow reader.
      const next = await heard(chunks.next());
      if (next.done) break;
      read += next.value.length;
      if (read > size) throw refused(`size is ${size}, but data_ref has more bytes`);
      yield next.value;
    }
  } catch (error) {
    signal.throwIfAborted();
    throw asSourceError(error, ref);
  } finally {
    bytes.destroy();
  }
  if (read < size) throw refused(`size is ${size}, but data_ref has ${read} bytes`);
}

async function heard<T>(coming: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const silence = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(silent()), SILENCE_MS);
  });
  try {
    return await Promise.race([coming, silence]);
  } finally {
    clearTimeout(timer);
  }
}

/** What the file system says when nobody can mend it by waiting. */
const REFUSALS = ['ENOENT', 'ENOTDIR', 'EACCES', 'EPERM', 'ELOOP', 'EISDIR', 'ENAMETOOLONG', 'ENXIO'];

/** What S3 says of this service's own credentials or clock, with 400 or 403: no upload's fault, and somebody mends it. */
const CREDENTIALS = [
  'ExpiredToken',
  'InvalidToken',
  'InvalidAccessKeyId',
  // The same, in versitygw's words.
  'XAdminUserNotFound',
  'SignatureDoesNotMatch',
  'RequestTimeTooSkewed',
];

function asSourceError(error: unknown, ref: string): unknown {
  if (error instanceof SourceError || (error instanceof Error && error.name === 'AbortError')) return error;
  if (error instanceof OrchestratorError) return new SourceError(error.code, error.message);
  const scheme = ref.slice(0, ref.indexOf(':'));
  if (error instanceof S3ServiceException) {
    const status = error.$metadata.httpStatusCode ?? 500;
    const passes = status >= 500 || [401, 408, 429].includes(status) || CREDENTIALS.includes(error.name);
    return (passes ? away : refused)(`data_ref (${scheme}): ${error.name}: ${error.message}`);
  }
  const code = (error as NodeJS.ErrnoException)?.code ?? '';
  return (REFUSALS.includes(code) ? refused : away)(`data_ref (${scheme}): ${describeError(error)}`);
}

const connect = ({ endpoint, accessKeyId, secretAccessKey }: NonNullable<UploadSourceOptions['s3']>) =>
  new S3Client({
    endpoint,
    forcePathStyle: true,
    region: 'us-east-1',
    credentials: { accessKeyId, secretAccessKey },
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
