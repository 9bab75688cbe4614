// Names in the tars of backups: what a restore can make a file of, and how any key of S3 becomes such a name.
import { refused } from './names.ts';

/** Of one name in a directory, in bytes, on nearly all file systems. */
const MAX_PART = 255;

/**
 * The parts of an entry's name.
 * @throws OrchestratorError backup_refused for one that could lead elsewhere, or that no file can have
 */
export function entryParts(name: string): string[] {
  const parts = name.replace(/\/+$/, '').split('/');
  if (name.includes('\0') || parts.some((part) => part === '' || part === '.' || part === '..'))
    throw refused(`the archive has the name ${JSON.stringify(name)}, which could lead elsewhere`);
  if (parts.some((part) => Buffer.byteLength(part) > MAX_PART))
    throw refused(`the archive has a name of more than ${MAX_PART} bytes: ${JSON.stringify(name)}`);
  return parts;
}

/**
 * Names for the keys of a bucket. A key that is a plain path is its own name. In others `%` and two hex digits stand for
 * what cannot stand for itself, also for a slash that separates nothing; and where a part is too long `%/` stands for
 * nothing. So `decodeURIComponent(name.replaceAll('%/', ''))` is the key.
 */
export class EntryNames {
  /** Earlier keys that the latest one begins with. In the order in which S3 lists, no other can matter any more. */
  private open: string[] = [];

  of(key: string): string {
    this.open = this.open.filter((earlier) => key.startsWith(earlier));
    const objects = new Set(this.open.map(({ length }) => length));
    this.open.push(key);
    let name = '';
    let part = '';
    for (const [at, character] of key.split('').entries()) {
      // An object is a file: nothing can lie below it.
      const separates = character === '/' && part !== '' && at + 1 < key.length && !objects.has(at);
      if (!separates) part += /[%/\0]/.test(character) ? hex(character) : character;
      else {
        name += `${asFileNames(part)}/`;
        part = '';
      }
    }
    return name + asFileNames(part);
  }
}

const hex = (text: string): string => Buffer.from(text).toString('hex').replaceAll(/../g, '%$&');

/** What cannot be one name in a directory as what can. */
function asFileNames(part: string): string {
  if (part === '.' || part === '..') return hex(part);
  if (Buffer.byteLength(part) <= MAX_PART) return part;
  let names = '';
  let bytes = 0;
  for (const character of part) {
    const size = Buffer.byteLength(character);
    // One byte is for the "%".
    if (bytes + size >= MAX_PART) {
      names += '%/';
      bytes = 0;
    }
    names += character;
    bytes += size;
  }
  return names;
}
