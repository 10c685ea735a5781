/**
 * Linux's virtio_uml as the frontend. It gives pipes in place of eventfds, asks for a
 * channel of the backend's, and sets rings up anew without having stopped them.
 */
import { assert, assertEquals } from "@std/assert";
import { exercise } from "../support/exercise.ts";
import { configure, e2e, type World } from "../support/lab.ts";
import { until } from "../support/lab_process.ts";
import { IPV4, IPV6 } from "../support/netns.ts";
import { capturedSince, longest } from "../support/pcap_reader.ts";
import { UmlGuest } from "../support/uml.ts";

const BYTES = 16 << 20;

/** Runs `work` with a guest, and adds what its kernel said to a failure. */
async function booted(
  { backend }: World,
  work: (guest: UmlGuest) => Promise<void>,
  programs: "base" | "full" = "base",
): Promise<void> {
  const guest = await UmlGuest.start(backend.socket, programs);
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

/** Feature bits (virtio 1.3, 5.1.3). */
const USO = { "guest-uso4": 54, "guest-uso6": 55, "uso": 56 } as const;
const folder = Deno.makeTempDirSync({ prefix: "vuelo-uso-" });
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
Deno.chmodSync(folder, 0o777);
const file = `${folder}/guest.pcap`;
const SIZE = 1000;
const COUNT = 30;

/** QEMU lets no vhost-user back-end have these; this driver negotiates them itself. */
async function joined(world: World, on: boolean): Promise<void> {
  await booted(world, async (guest) => {
    const bits = await guest.shell("cat /sys/bus/virtio/devices/virtio0/features");
    for (const bit of Object.values(USO)) assertEquals(bits[bit], on ? "1" : "0");
    // Linux has segmentation of datagrams at hand, but leaves it off.
    if (on) await guest.run("ethtool", "-K", "eth0", "tx-udp-segmentation", "on");
    for (const { peer: host, headers, kind } of WIRES) {
      const { size: before } = await Deno.stat(file);
      // The guest's sockets get single datagrams, whatever the frames.
      const lengths = await guest.call("udp_joined", { host, size: SIZE, count: COUNT });
      assertEquals(lengths, Array(COUNT).fill(SIZE));
      const expected = headers + (on ? SIZE * COUNT : SIZE);
      for (const fromGuest of [true, false]) {
        const frames = capturedSince(file, before);
        assertEquals(longest(frames, fromGuest, kind), expected, `${kind} ${fromGuest}`);
      }
    }
  }, "full");
}

const WIRES = [
  { ...IPV4, kind: "udp ip4", headers: 14 + 20 + 8 },
  { ...IPV6, kind: "udp ip6", headers: 14 + 40 + 8 },
];
const ARGS = ["-m", "1500", "--pcap", file];
e2e("Linux's virtio_uml, datagrams joined", { backend: { args: ARGS } }, [
  { name: "to one frame either way", run: (world) => joined(world, true) },
]);
const WITHOUT = [...ARGS, "--offload=-uso,-guest-uso"];
e2e("Linux's virtio_uml, datagrams not joined", { backend: { args: WITHOUT } }, [
  { name: "as each is a frame", run: (world) => joined(world, false) },
]);

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
