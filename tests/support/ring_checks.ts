/** What tests of split and of packed rings share. */
import fc from "fast-check";
import type { GuestMemory } from "../../src/virtio/guest_memory.ts";

/** A descriptor's address that is wrong, or right by chance. */
export const anyAddress: fc.Arbitrary<number | bigint> = fc.oneof(
  fc.integer({ min: 0, max: 0x100 }).map((at) => 0x10_0000 + at),
  fc.integer({ min: -64, max: 64 }).map((at) => 0x90_0000 + at),
  fc.constantFrom(0, 2 ** 40, 2 ** 52),
  // Beyond what a number holds exactly, up to the last address there is.
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
);

/** A descriptor's length that is wrong, or right by chance. */
export const anyLength: fc.Arbitrary<number> = fc.oneof(
  fc.integer({ min: 0, max: 80 }),
  fc.integer({ min: 0, max: 0xffff_ffff }),
  fc.constantFrom(16, 32, 48, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff),
);

/** Address and length of what `body` has marked as dirty, in order. */
export function markedBy(memory: GuestMemory, body: () => void): [number, number][] {
  const marks: [number, number][] = [];
  const { markDirty } = memory;
  memory.logging = true;
  memory.markDirty = (address, length) => void marks.push([address, length]);
  try {
    body();
  } finally {
    memory.logging = false;
    memory.markDirty = markDirty;
  }
  return marks;
}
