/** Pieces of a stream, joined so that few writes are needed. */

/** Larger pieces are not copied. */
const GATHERED = 1 << 18;

/** Joins small pieces; large ones stay as they are. */
export function gather(pieces: Iterable<Uint8Array>): Uint8Array<ArrayBuffer>[] {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let buffer = new Uint8Array();
  let used = 0;
  const flush = () => {
    if (used > 0) chunks.push(buffer.subarray(0, used));
    buffer = buffer.subarray(used);
    used = 0;
  };
  for (const piece of pieces) {
    if (piece.length >= GATHERED) {
      flush();
      chunks.push(piece as Uint8Array<ArrayBuffer>);
      continue;
    }
    if (piece.length > buffer.length - used) {
      flush();
      buffer = new Uint8Array(GATHERED);
    }
    buffer.set(piece, used);
    used += piece.length;
  }
  flush();
  return chunks;
}
