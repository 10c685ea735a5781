/** Several queue pairs: a thread for each, and flows that go where their guest wants them. */
import { assert, assertEquals } from "@std/assert";
import { exercise } from "../support/exercise.ts";
import { type Case, configure, e2e, Port, type World } from "../support/lab.ts";
import type { Agent, Transfer } from "../support/lab_agent.ts";
import { IS_VUELO } from "../support/lab_backend.ts";
import { until } from "../support/lab_process.ts";
import { FAMILIES, IPV4 } from "../support/netns.ts";

const MIB = 1 << 20;
const FORWARDED = 8000;

/** ETHTOOL_SCHANNELS (linux/ethtool.h), as `ethtool -L eth0 combined N` calls it. */
const SET_CHANNELS = `
import array, fcntl, socket, struct, sys
channels = array.array("I", [0x3d, 0, 0, 0, 0, 0, 0, 0, int(sys.argv[1])])
request = struct.pack("16sQ8x", b"eth0", channels.buffer_info()[0])
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)
`;

async function setChannels(guest: Agent, count: number): Promise<void> {
  await guest.run("python3", "-c", SET_CHANNELS, `${count}`);
}

/** What the agent does runs on one processor, and so uses its queue; 3 for both. */
async function pin(guest: Agent, mask: number): Promise<void> {
  // A thread of the agent may end meanwhile.
  await guest.shell(
    `for task in /proc/$PPID/task/*; do
      taskset -p ${mask} \${task##*/} || [ ! -e $task ] || exit 1
    done`,
  );
}

/** Interrupts of each of the guest's transmit and receive queues so far. */
async function interrupts(guest: Agent, queue: string): Promise<number> {
  const text = await guest.shell("cat /proc/interrupts");
  const line = text.split("\n").find((line) => line.endsWith(`-${queue}`));
  assert(line !== undefined, `no interrupt of ${queue}`);
  return line.trim().split(/\s+/).slice(1, 3).reduce((sum, n) => sum + Number(n), 0);
}

function assertIntact({ bytes, sent, received }: Omit<Transfer, "seconds">, all: number) {
  assertEquals([bytes, received], [all, sent]);
}

/** Streams both ways on each queue, and in both at once. */
async function onEach({ guest }: World): Promise<void> {
  for (const [queue, mask] of [[0, 1], [1, 2]]) {
    await pin(guest, mask);
    const before = await interrupts(guest, `input.${queue}`);
    for (const { peer: host } of FAMILIES) {
      for (const op of ["download", "upload"] as const) {
        assertIntact(await guest.call(op, { host, bytes: 16 * MIB }), 16 * MIB);
      }
    }
    assert(await interrupts(guest, `input.${queue}`) > before, `queue ${queue} is idle`);
  }
  await pin(guest, 3);
}

/** A stream each way, during which `change` is called several times. */
async function during(
  { guest }: World,
  bytes: number,
  change: (round: number) => Promise<void>,
): Promise<void> {
  const host = IPV4.peer;
  let over = false;
  const streams = Promise.all([
    guest.call("download", { host, bytes }),
    guest.call("upload", { host, bytes }),
    guest.call("echo", { host, bytes }),
  ]).finally(() => over = true);
  let round = 0;
  while (!over) {
    await change(round++);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  for (const result of await streams) assertIntact(result, bytes);
  assert(round > 3, `${round} changes during the streams`);
}

async function forwards({ guest, peer, local }: World): Promise<void> {
  await guest.call("serve_echo", { port: FORWARDED });
  for (const mask of [1, 2, 3]) {
    await pin(guest, mask);
    for (const [agent, host] of [[peer, IPV4.host], [local, "127.0.0.1"]] as const) {
      const port = FORWARDED;
      assertEquals(await agent.call("many", { host, port, count: 100, bytes: 20_000 }), {
        good: 100,
        errors: {},
      });
      assertIntact(await agent.call("echo", { host, port, bytes: 8 * MIB }), 8 * MIB);
      const sizes = { first: 0, last: 1400, step: 100 };
      const echoed = await agent.call("udp_echo", { host, port, ...sizes });
      assertEquals(echoed.failed, []);
    }
  }
}

const cases: Case[] = [
  {
    name: "streams, datagrams, ping and names",
    run: ({ guest }) => exercise(guest, 16 * MIB),
  },
  { name: "streams on either queue", run: onEach },
  {
    name: "200 connections at once",
    run: async ({ guest }) => {
      for (const { peer: host } of FAMILIES) {
        const tally = await guest.call("many", { host, count: 200, bytes: 20_000 });
        assertEquals(tally, { good: 200, errors: {} });
      }
    },
  },
  {
    name: "streams whose program changes processors",
    run: async (world) => {
      await during(world, 64 * MIB, (round) => pin(world.guest, 1 + round % 2));
      await pin(world.guest, 3);
    },
  },
  { name: "forwarded ports, answered on either queue", run: forwards },
  {
    name: "streams while the guest goes down to one queue and back",
    run: (world) =>
      during(world, 64 * MIB, (round) => setChannels(world.guest, 2 - round % 2)),
  },
  {
    name: "one queue alone, then both",
    run: async ({ guest }) => {
      for (const count of [1, 2]) {
        await setChannels(guest, count);
        await exercise(guest, MIB);
      }
    },
  },
  {
    name: "the guest is paused and goes on",
    run: async ({ guest }) => {
      for (let i = 0; i < 3; i++) {
        await guest.qmp("stop");
        await guest.qmp("cont");
        await exercise(guest, MIB);
      }
    },
  },
  {
    name: "the guest is reset",
    run: async ({ guest }) => {
      guest.call("download", { host: IPV4.peer, bytes: 2 ** 40 }).catch(() => {});
      await guest.reboot("reset");
      await configure(guest);
      await exercise(guest, MIB);
    },
  },
  {
    name: "QEMU is killed and started again",
    run: async (world) => {
      const before = world.backend.descriptors();
      await world.guest.stop("SIGKILL");
      await until("nothing is left open", () => world.backend.descriptors() <= before);
      await world.start();
      await exercise(world.guest, 16 * MIB);
      const stats = await world.peer.call("stats", {});
      assertEquals(stats[Port.source].open, 0);
    },
  },
  {
    name: "SIGTERM ends all threads; flows had moved between them",
    run: async ({ backend, guest }) => {
      await guest.stop();
      await backend.process.stop();
      const { output } = backend.process;
      if (!IS_VUELO) return;
      assertEquals((await backend.process.status).code, 0);
      for (const counter of ["framesTaken", "flowsTaken"]) {
        const [, n] = output.match(new RegExp(`${counter} (\\d+)`)) ?? [];
        assert(Number(n) > 0, `${counter}: ${output}`);
      }
    },
  },
];

e2e("Two queue pairs", {
  guest: { queues: 2, cpus: 2 },
  backend: { args: ["--queues", "2", "-t", `${FORWARDED}`, "-u", `${FORWARDED}`] },
}, cases);

e2e("Two packed queue pairs", {
  guest: { queues: 2, cpus: 2, device: "packed=on" },
  backend: { args: ["--queues", "2", "-t", `${FORWARDED}`, "-u", `${FORWARDED}`] },
}, cases.filter(({ name }) => /either|changes|goes down/.test(name)));
