// What a failed probe may say: whose failure it is, and why, without the secrets that it knows.
import { closeSync, openSync } from 'node:fs';
import { devNull } from 'node:os';
import type { ProbeTarget } from './target.ts';

const MAX_TEXT = 300;

/** This process or its host has no more files, ports or memory: that says nothing of the other side. */
const UNROUTED = /\b(EAI_AGAIN|ENETUNREACH|ENETDOWN)\b/;
const OUR_OWN = /\b(EMFILE|ENFILE|EADDRNOTAVAIL|ENOBUFS|ENOMEM)\b/;

/** The name was not found for now, or there is no way: ours or theirs, which only several of them can tell. */
export const isUnrouted = (error: unknown): boolean =>
  causes(error).every((cause) => UNROUTED.test(`${codeOf(cause)} ${textOf(cause)}`));

/**
 * Whether the probing itself failed. Of several addresses that were tried each has to have failed so: on a host
 * without IPv6 `localhost` has one that always does.
 */
export function isOurOwn(error: unknown): boolean {
  return causes(error).every((cause) => OUR_OWN.test(`${codeOf(cause)} ${textOf(cause)}`)) || !canOpenFiles();
}

/** Some errors hide the reason: without a free file no name is found, and that reads like a name that is not there. */
function canOpenFiles(): boolean {
  try {
    closeSync(openSync(devNull, 'r'));
    return true;
  } catch {
    return false;
  }
}

/** The innermost reasons of an error, at most 300 characters, with the target's passwords and keys hidden. */
export function explain(error: unknown, target: ProbeTarget): string {
  const text = [...new Set(causes(error).map(textOf))].join('; ').trim();
  return shorten(hide(text, secretsOf(target)));
}

export const shorten = (text: string, most = MAX_TEXT): string =>
  text.length <= most ? text : `${text.slice(0, most - 1)}…`;

/** A part of a URL as it was meant; as it stands where it is no valid encoding. */
export function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function causes(error: unknown): unknown[] {
  if (!(error instanceof Error)) return [error];
  if ('errors' in error && Array.isArray(error.errors) && error.errors.length > 0)
    return error.errors.flatMap(causes);
  return error.cause instanceof Error ? causes(error.cause) : [error];
}

const codeOf = (error: unknown): unknown =>
  error instanceof Error && 'code' in error ? error.code : undefined;

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // The S3 client's word for an answer that says nothing.
  return error.message && error.message !== 'UnknownError' ? error.message : error.name;
}

function secretsOf(target: ProbeTarget): string[] {
  if (target.kind === 's3') return [target.secretAccessKey, target.accessKeyId];
  const url = 'url' in target ? URL.parse(target.url) : null;
  if (!url) return [];
  return [url.password, decoded(url.password), ...url.searchParams.values()];
}

function hide(text: string, secrets: string[]): string {
  const longestFirst = secrets.filter(Boolean).sort((a, b) => b.length - a.length);
  return longestFirst.reduce(
    (shown, secret) => shown.replaceAll(secret, '***'),
    // Also those of addresses that are not the target's own.
    text.replace(/:\/\/[^\s@]*@/g, '://***@'),
  );
}
