/** A guest's state leaves a service and comes back to it. */
import { close } from "../../ffi/event.ts";
import { memfdCreate, setNonBlocking } from "../../ffi/memory.ts";
import { createPipe, readSome, writeSome } from "../../ffi/pipe.ts";
import { Failed } from "./outcome.ts";
import type { FaultWorld } from "./world.ts";

const SAVE = 0;
const LOAD = 1;
const NONE = -1;
const STATE_SIZE = 1 << 22;

/** What is unusual of a move. */
export interface How {
  /** The state is asked to go to a file, for which a pipe is offered instead. */
  readonly toFile?: boolean;
  /** Whether all is well is asked before the state is there. */
  readonly asksEarly?: boolean;
  /** When all is saved it goes on where it was. */
  readonly undone?: boolean;
}

/** Leaves and arrives. */
export function leaveAndArrive(world: FaultWorld, how: How): void {
  world.stop();
  const stream = save(world, how);
  if (stream === undefined) {
    world.start();
    throw new Failed("not moved");
  }
  if (how.undone) return world.start();
  world.hangUp();
  world.connect();
  if (!load(world, stream, how)) {
    // The hypervisor gives up, and the guest goes on at its source, which is gone here.
    world.hangUp();
    throw new Failed("not moved");
  }
  world.start();
}

function save(world: FaultWorld, how: How): Uint8Array<ArrayBuffer> | undefined {
  const reading = askForState(world, how);
  if (reading === undefined) return undefined;
  const stream = new Uint8Array(STATE_SIZE);
  let filled = 0;
  try {
    world.until("the state", () => {
      const count = readSome(reading, stream.subarray(filled));
      if (count > 0) filled += count;
      return count === 0;
    });
  } finally {
    close(reading);
  }
  return world.check() === 0 ? stream.subarray(0, filled) : undefined;
}

/** Where the state is to be read; undefined if it is refused. */
function askForState(world: FaultWorld, { toFile = false }: How): number | undefined {
  const [reading, writing] = toFile ? [NONE, memfdCreate("state", 0)] : createPipe();
  let from: number | undefined;
  try {
    const { accepted, instead } = world.transfer(SAVE, writing);
    if (accepted) from = instead ?? reading;
  } finally {
    close(writing);
    if (from !== reading && reading !== NONE) close(reading);
  }
  if (from !== undefined) setNonBlocking(from);
  return from;
}

function load(
  world: FaultWorld,
  stream: Uint8Array<ArrayBuffer>,
  { asksEarly = false }: How,
): boolean {
  const [reading, writing] = createPipe();
  let to = writing;
  let accepted = false;
  try {
    const answer = world.transfer(LOAD, reading);
    accepted = answer.accepted;
    to = answer.instead ?? writing;
    setNonBlocking(to);
    if (accepted && asksEarly) world.askCheck();
    for (let i = 0, sent = 0; accepted && sent < stream.length && i < 100; i++) {
      sent += Math.max(0, writeSome(to, stream.subarray(sent)));
      world.turn();
    }
  } finally {
    close(reading);
    close(writing);
    if (to !== writing) close(to);
  }
  world.turns(5);
  return accepted && (asksEarly ? world.checked() : world.check()) === 0;
}
