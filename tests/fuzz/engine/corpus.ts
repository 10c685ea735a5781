/** Inputs in files: one per line, base64. */

/** The inputs of a file; none if it is not there. */
export function readCorpus(path: string | URL): Uint8Array<ArrayBuffer>[] {
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
  return text.split("\n").slice(0, -1).map((line) => Uint8Array.fromBase64(line));
}

/** Writes a file in one step. */
export function writeCorpus(path: string, inputs: readonly Uint8Array[]): void {
  const text = inputs.map((input) => input.toBase64() + "\n").join("");
  Deno.mkdirSync(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  const fresh = `${path}.${Deno.pid}`;
  Deno.writeTextFileSync(fresh, text);
  Deno.renameSync(fresh, path);
}

/** An input and the features (branches with classes of counts) that it reaches. */
export interface Traced {
  readonly data: Uint8Array;
  readonly features: readonly number[];
}

/**
 * A few inputs that reach all branches, then more for the classes of counts while they
 * fit into `limit` bytes of a file. Short ones come first.
 */
export function minimized(inputs: readonly Traced[], limit: number): Uint8Array[] {
  const sorted = inputs.toSorted((a, b) => a.data.length - b.data.length);
  const kept: Traced[] = [];
  let size = 0;
  for (const key of [(f: number) => f & 0xffff, (f: number) => f]) {
    const seen = new Set(kept.flatMap(({ features }) => features.map(key)));
    const whole = key(1 << 16) === 0;
    for (const input of sorted) {
      if (kept.includes(input) || input.features.every((f) => seen.has(key(f)))) continue;
      const cost = 1 + 4 * Math.ceil(input.data.length / 3);
      if (!whole && size + cost > limit) continue;
      size += cost;
      kept.push(input);
      for (const feature of input.features) seen.add(key(feature));
    }
  }
  return kept.map(({ data }) => data);
}
