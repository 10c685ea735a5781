/** Where the parts of a split ring lie (virtio 1.3, 2.7). */

export interface VringLayout {
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  readonly size: number;
}

/** Offsets from the ring's start. */
export function vringLayout(entries: number): VringLayout {
  const avail = 16 * entries;
  const used = Math.ceil((avail + 6 + 2 * entries) / 4096) * 4096;
  return { desc: 0, avail, used, size: used + 6 + 8 * entries };
}
