/** What a probe says of something that answers, but not as it should. Something that is down makes it throw. */
export interface Finding {
  atLeast: 'minor' | 'moderate';
  error: string;
}
