/** The same for the same content: with the fields of each object in the order of their names. */
export const canonicalJson = (content: unknown): string =>
  JSON.stringify(content, (_, value) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).toSorted(([one], [other]) => (one < other ? -1 : 1)))
      : value,
  );
