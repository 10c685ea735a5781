/**
 * DPDK's virtio-user as the frontend, with a driver of its own for the rings: in its
 * usual ways to set them up, killed and started again, and at its full speed.
 */
import { assert, assertEquals } from "@std/assert";
import { DpdkGuest, type TestpmdOptions } from "../support/dpdk.ts";
import { exercise } from "../support/exercise.ts";
import { type Case, e2e, type World } from "../support/lab.ts";
import { until } from "../support/lab_process.ts";
import { IPV4 } from "../support/netns.ts";

const BYTES = 16 << 20;

/** Has testpmd fill in the checksums, which it gets from vuelo not filled in. */
const CHECKSUMS: TestpmdOptions = {
  mode: "csum",
  args: ["--rx-offloads=0xc"], // UDP and TCP
  commands: [
    ...[0, 1].map((port) => `csum mac-swap off ${port}`),
    ...["ip", "udp", "tcp"].map((layer) => `csum set ${layer} sw 1`),
  ],
};

/** Runs `work` with a guest behind testpmd, and adds what that said to a failure. */
async function behind(
  work: (guest: DpdkGuest) => Promise<void>,
): Promise<void> {
  const guest = await DpdkGuest.create();
  try {
    await work(guest);
  } catch (error) {
    throw new Error(
      `${(error as Error).message}\ntestpmd:\n${guest.output.slice(-2000)}`,
      {
        cause: error,
      },
    );
  } finally {
    await guest.close();
  }
}

const PACKED = [
  "packed_vq=1",
  "packed_vq=1,in_order=0,queue_size=64",
  "packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1",
];

/** @param packed whether the rings must have come to be packed (bit 34) */
function works(name: string, options: TestpmdOptions = {}, packed = false): Case {
  return {
    name,
    run: ({ backend }: World) =>
      behind(async (guest) => {
        await guest.start(backend.socket, options);
        await guest.configure();
        await exercise(guest.agent, BYTES);
        const accepted = backend.process.output.match(/features accepted: \w{16}/g)?.at(
          -1,
        );
        if (accepted === undefined) return; // not vuelo
        const high = parseInt(accepted.slice(-16, -8), 16);
        assertEquals((high & 4) !== 0, packed, accepted);
      }),
  };
}

async function killed({ backend, peer }: World): Promise<void> {
  const before = [backend.pid, backend.descriptors()];
  await behind(async (guest) => {
    for (let i = 0; i < 3; i++) {
      await guest.start(backend.socket);
      await guest.configure();
      const cut = guest.agent.call("download", { host: IPV4.peer, bytes: 2 ** 40 });
      cut.catch(() => {});
      await until("the stream flows", async () => {
        const stats = await peer.call("stats", {});
        return stats[7000].open > 0;
      });
      await guest.stop("SIGKILL");
    }
    await guest.start(backend.socket);
    await guest.configure();
    await exercise(guest.agent, BYTES);
  });
  await until("all is closed", () => backend.descriptors() <= before[1]);
  assertEquals(backend.pid, before[0]);
  assert(!backend.process.ended);
}

e2e("DPDK's virtio-user", { backend: { args: ["-d", "-m", "1500"] } }, [
  works("as it is by default"),
  works("without mergeable buffers, in_order=0, queues=1", {
    device: "mrg_rxbuf=0,in_order=0,packed_vq=0,queues=1",
  }),
  ...PACKED.map((device) => works(`packed rings, ${device}`, { device }, true)),
  works("vectorized", { device: "mrg_rxbuf=0,in_order=1,vectorized=1" }),
  works("small rings", { device: "queue_size=64" }),
  works("fills in checksums", CHECKSUMS),
  { name: "killed in the middle of a stream and started again", run: killed },
]);
