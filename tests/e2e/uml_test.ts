/**
 * Linux's virtio_uml as the frontend. It gives pipes in place of eventfds, asks for a
 * channel of the backend's, and sets rings up anew without having stopped them.
 */
import { assert, assertEquals } from "@std/assert";
import { exercise } from "../support/exercise.ts";
import { configure, e2e, type World } from "../support/lab.ts";
import { until } from "../support/lab_process.ts";
import { UmlGuest } from "../support/uml.ts";

const BYTES = 16 << 20;

/** Runs `work` with a guest, and adds what its kernel said to a failure. */
async function booted(
  { backend }: World,
  work: (guest: UmlGuest) => Promise<void>,
): Promise<void> {
  const guest = await UmlGuest.start(backend.socket);
  try {
    await configure(guest);
    await work(guest);
  } catch (error) {
    const { message } = error as Error;
    throw new Error(`${message}\nkernel:\n${guest.process.output.slice(-2000)}`, {
      cause: error,
    });
  } finally {
    await guest.stop();
  }
}

/** The driver lets go of the device and takes it again, as a module reload does. */
async function reloaded(guest: UmlGuest): Promise<void> {
  for (const action of ["unbind", "bind"]) {
    await guest.shell(`echo virtio0 > /sys/bus/virtio/drivers/virtio_net/${action}`);
  }
  await configure(guest);
}

async function killed(world: World): Promise<void> {
  const { backend } = world;
  const before = [backend.pid, backend.descriptors()];
  const first = await UmlGuest.start(backend.socket);
  await configure(first);
  await first.stop();
  await booted(world, (guest) => exercise(guest, BYTES));
  await until("all is closed", () => backend.descriptors() <= before[1]);
  assertEquals(backend.pid, before[0]);
  assert(!backend.process.ended);
}

e2e("Linux's virtio_uml", {}, [
  {
    name: "works, and does after its driver was loaded again",
    run: (world) =>
      booted(world, async (guest) => {
        await exercise(guest, BYTES);
        await reloaded(guest);
        await exercise(guest, BYTES);
      }),
  },
  { name: "killed and started again", run: killed },
]);
