/** Guests that reboot, drivers that reset, a QEMU that dies: the same vuelo serves on. */
import { assertEquals, assertMatch } from "@std/assert";
import { exercise } from "../support/exercise.ts";
import { type Case, configure, e2e, World } from "../support/lab.ts";
import { ordinaryUser } from "../support/lab_user.ts";
import { IS_VUELO } from "../support/lab_backend.ts";
import { until } from "../support/lab_process.ts";
import { IPV4 } from "../support/netns.ts";

const BYTES = 16 << 20;

/** The network works. */
async function works({ guest }: World): Promise<void> {
  await exercise(guest, BYTES);
}

/** Starts a stream that the event under test cuts off. */
function doomed({ guest }: World): Promise<unknown> {
  return guest.call("download", { host: IPV4.peer, bytes: 2 ** 40 }).catch(() => {});
}

async function reboots(world: World, how: "guest" | "reset"): Promise<void> {
  const before = world.backend.pid;
  doomed(world);
  const busy = async () => {
    const stats = await world.peer.call("stats", {});
    return stats[7000].open > 0;
  };
  await until("the stream flows", busy);
  await world.guest.reboot(how);
  await configure(world.guest);
  await works(world);
  assertEquals([world.backend.pid, world.backend.process.ended], [before, false]);
}

/** The driver lets go of the device and takes it again, as a module reload does. */
async function driverResets(world: World): Promise<void> {
  const { guest } = world;
  const device = (await guest.shell("basename $(readlink /sys/class/net/eth0/device)"))
    .trim();
  for (const action of ["unbind", "bind"]) {
    await guest.shell(`echo ${device} > /sys/bus/virtio/drivers/virtio_net/${action}`);
  }
  await configure(guest);
  await works(world);
}

async function qemuDies(world: World): Promise<void> {
  const { backend } = world;
  const before = backend.descriptors();
  const cut = doomed(world);
  await world.guest.stop("SIGKILL");
  await cut;
  assertEquals(backend.process.ended, false);
  await world.start();
  await works(world);
  if (!IS_VUELO) return;
  await until("the dead leave nothing open", () => backend.descriptors() <= before);
}

/** The driver has agreed to packed rings: bit 34 of the features, of which the first is 0. */
async function usesPackedRings({ guest, backend }: World): Promise<void> {
  const path = "/sys/class/net/eth0/device/features";
  assertEquals((await guest.shell(`cat ${path}`)).charAt(34), "1");
  if (!IS_VUELO) return;
  assertMatch(backend.process.output, /features accepted: .{7}[4-7c-f]/);
}

const cases: Case[] = [
  { name: "the first boot", run: works },
  { name: "the guest reboots", run: (world) => reboots(world, "guest") },
  { name: "the guest is reset", run: (world) => reboots(world, "reset") },
  { name: "the driver resets the device", run: driverResets },
  { name: "QEMU is killed and started again", run: qemuDies },
  { name: "QEMU is killed and started once more", run: qemuDies },
  {
    // Often: an interrupt that gets lost then does so now and again only.
    name: "QEMU pauses and goes on, eight times",
    run: async (world) => {
      for (let i = 0; i < 8; i++) {
        await world.guest.qmp("stop");
        await world.guest.qmp("cont");
        await works(world);
      }
    },
  },
];

e2e("One vuelo, many lives of a guest", { guest: {} }, cases);

e2e("The same with packed rings", {
  guest: { device: "packed=on" },
  backend: { args: ["-d"] },
}, [
  { name: "the driver uses packed rings", run: usesPackedRings },
  ...cases.filter(({ name }) => !/once more|is reset/.test(name)),
]);

e2e("Packed rings of the plainest kind", {
  guest: { device: "packed=on,event_idx=off,indirect_desc=off,mrg_rxbuf=off" },
  backend: { args: ["-d"] },
}, [
  { name: "the driver uses packed rings", run: usesPackedRings },
  { name: "the first boot", run: works },
  { name: "the guest reboots", run: (world) => reboots(world, "guest") },
]);

e2e("One-off", { guest: {}, backend: { args: ["--one-off"] } }, [
  {
    name: "vuelo ends with the first QEMU",
    run: async (world) => {
      await works(world);
      await world.guest.stop();
      await until("vuelo ends", () => world.backend.process.ended);
      assertEquals((await world.backend.process.status).code, 0);
    },
  },
]);

Deno.test("As an ordinary user", async (test) => {
  await using user = await ordinaryUser();
  await test.step({
    name: "vuelo gives a guest the network",
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      const world = await World.create({ guest: {}, backend: user.backend });
      try {
        await works(world);
      } finally {
        await world.close();
      }
    },
  });
});
