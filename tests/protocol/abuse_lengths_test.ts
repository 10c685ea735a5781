/** Frames of every length from 0 to 65,550, with contents of every kind. */
import {
  type Abuse,
  abuses,
  type AbuseWorld,
  LONG,
  noise,
  noiseBytes,
} from "../support/abuse_world.ts";
import { type Kind, KINDS, LONGEST } from "../support/frame_lengths.ts";

/** Frames of all lengths, each of the kind that `kindOf` says, beside the good flow. */
async function all(
  world: AbuseWorld,
  seed: number,
  kindOf: (length: number) => Kind,
): Promise<void> {
  const next = noise(seed);
  // Noise from another place each time: making it anew would take most of the time.
  const bytes = noiseBytes(next, 3 * LONGEST);
  const frame = new Uint8Array(LONGEST);
  await world.beside(LONGEST + 1, (length) => {
    const at = next() % (2 * LONGEST);
    const part = frame.subarray(0, length);
    part.set(bytes.subarray(at, at + length));
    kindOf(length)(part, length);
    return part;
  });
}

const CASES: readonly Abuse[] = LONG
  ? KINDS.map(([name, kind], i) => ({
    name: `every length: ${name}`,
    run: (world) => all(world, 77 + i, () => kind),
  }))
  : [{
    name: "every length, of another kind each time",
    run: (world) => all(world, 77, (length) => KINDS[length % KINDS.length][1]),
  }];

abuses(
  "frames of every length from 0 to 65,550",
  {},
  CASES,
);
