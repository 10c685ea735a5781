/** Types of deno-std's bytes module, which ships JavaScript only. */
export declare function concat(buffers: Iterable<Uint8Array>): Uint8Array<ArrayBuffer>;
export declare function equals(a: Uint8Array, b: Uint8Array): boolean;
export declare function indexOfNeedle(
  source: Uint8Array,
  needle: Uint8Array,
  start?: number,
): number;
