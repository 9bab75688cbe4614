/**
 * Cuts a stream into messages and keeps what has not arrived in full. `lengthOf` reads the length of the message that
 * the bytes begin with, undefined where they are too few to tell; `read` looks at a message before the next is cut.
 */
export function splitter<T>(lengthOf: (bytes: Buffer) => number | undefined, read: (message: Buffer) => T) {
  let rest: Buffer = Buffer.alloc(0);
  return function* messages(chunk: Buffer): Generator<T> {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    for (;;) {
      const length = lengthOf(rest);
      if (length === undefined || rest.length < length) return;
      const message = rest.subarray(0, length);
      rest = rest.subarray(length);
      yield read(message);
    }
  };
}
