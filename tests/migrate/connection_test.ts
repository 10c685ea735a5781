import { assert, assertEquals } from "@std/assert";
import { Process, run, until } from "../support/lab_process.ts";
import type { MoveFindings, MoveOrders } from "../support/move_worker.ts";
import { FAMILIES, IPV4, Network } from "../support/netns.ts";

const SUPPORT = new URL("../support/", import.meta.url).pathname;

/** A host and a peer on a wire of MTU 1500; the peer sends back what it gets. */
async function withEcho(
  body: (network: Network, port: number) => Promise<void>,
): Promise<void> {
  const network = await Network.create(1500);
  const deno = [Deno.execPath(), "run", "--quiet", "--allow-all"];
  const echo = new Process([...deno, `${SUPPORT}move_echo.ts`], {
    namespace: network.peer,
  });
  try {
    const [, port] = await echo.says(/^port (\d+)$/m);
    await body(network, Number(port));
  } finally {
    await echo.stop("SIGKILL");
    await network.close();
  }
}

async function move(network: Network, orders: MoveOrders): Promise<MoveFindings> {
  const program = [Deno.execPath(), "run", "--quiet", "--allow-all"];
  program.push(`${SUPPORT}move_worker.ts`, JSON.stringify(orders));
  return JSON.parse(await run(program, { namespace: network.host }));
}

Deno.test("connections over a wire move with segment size and options", async (t) => {
  await withEcho(async (network, port) => {
    for (const family of FAMILIES) {
      const largest = family.name === "IPv4" ? 1460 : 1440;
      await t.step(`${family.name}, data in both queues`, async () => {
        const orders = { peer: family.peer, port, bytes: 1_000_000 };
        const found = await move(network, orders);
        assertEquals(found.lost, "");
        assertEquals(found.options, [7, 7]);
        assertEquals(found.mss, [largest - 12, largest - 12]);
        assert(found.queued[1] > 10_000, `${found.queued} bytes`);
      });
    }
    const sysctls = [
      ["tcp_sack", 5, 1448],
      ["tcp_window_scaling", 3, 1448],
      ["tcp_timestamps", 6, 1460],
    ] as const;
    for (const [name, options, mss] of sysctls) {
      await t.step(`without ${name} (D7)`, async () => {
        await network.sysctl(network.host, `ipv4/${name}`, "0");
        const found = await move(network, { peer: IPV4.peer, port, bytes: 200_000 });
        await network.sysctl(network.host, `ipv4/${name}`, "1");
        // A scale of 0, which is none, is set for the kernel not to choose one.
        assertEquals([found.lost, found.options], ["", [options, options | 4]]);
        assertEquals(found.mss, [mss, mss]);
      });
    }
    await t.step("bound to an interface", async () => {
      const device = network.hostLink;
      const orders = { peer: IPV4.peer, port, bytes: 100_000, device };
      const found = await move(network, orders);
      assertEquals([found.lost, found.device, found.boundTo], ["", device, device]);
    });
    await t.step("bound to an interface of the target's own", async () => {
      const targetDevice = network.hostLink;
      const orders = { peer: IPV4.peer, port, bytes: 100_000, targetDevice };
      const found = await move(network, orders);
      assertEquals([found.device, found.boundTo], ["", targetDevice]);
      const other = await move(network, { ...orders, saysDevice: "elsewhere0" });
      assertEquals(other.boundTo, targetDevice);
    });
    await t.step("with a link-local peer", async () => {
      const show = ["ip", "-6", "addr", "show", "dev", network.peerLink];
      const text = await run([...show, "scope", "link"], { namespace: network.peer });
      const peer = /inet6 (fe80:[^/]+)/.exec(text)![1];
      const orders = { peer, port, bytes: 100_000, device: network.hostLink };
      assertEquals((await move(network, orders)).lost, "");
    });
  });
});

Deno.test("where a guest has come to is told on the wire, once it runs", async () => {
  const network = await Network.create(1500);
  try {
    const { path, args, env } = network.ip;
    const known = async (address: string) => {
      const show = [path, ...args, "-n", network.peer, "neigh", "show", address];
      return (await run(show, { env })).includes("lladdr");
    };
    for (const { host } of FAMILIES) assertEquals(await known(host), false);
    const program = [Deno.execPath(), "run", "--quiet", "--allow-all"];
    program.push(`${SUPPORT}announce_worker.ts`);
    await run(program, { namespace: network.host });
    for (const { host } of FAMILIES) {
      await until(`the gateway knows where ${host} is`, () => known(host));
    }
  } finally {
    await network.close();
  }
});
