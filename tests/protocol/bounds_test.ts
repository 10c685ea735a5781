/** Bounds of a vuelo with two threads, as a guest with two queue pairs meets them. */
import { assertEquals, assertMatch } from "@std/assert";
import { parseAddress } from "../../src/wire/address.ts";
import { close } from "../../ffi/event.ts";
import { connectUnix, isHungUp } from "../../ffi/unix_socket.ts";
import { Ask, u64 } from "../support/frontend.ts";
import { udpPacket } from "../support/guest_packets.ts";
import { LOOPBACK4 } from "../support/host_tcp.ts";
import { HostUdp } from "../support/host_udp.ts";
import { inFolder, vuelo } from "../support/cli.ts";
import { Process, until } from "../support/lab_process.ts";
import { QueueDriver } from "../support/queue_driver.ts";

const ENDS = {
  from: parseAddress("192.0.2.5") as Uint8Array,
  to: parseAddress("192.0.2.1") as Uint8Array,
};
const ARGS = ["-4", "-a", "192.0.2.5/24", "-g", "192.0.2.1", "--queues", "2"];
/** Packets on another ring, after which a flow has followed them for sure. */
const MANY = 12;

const bytesOf = (words: string) => new TextEncoder().encode(words);
const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

function withTwoPairs(
  name: string,
  args: readonly string[],
  body: (driver: QueueDriver, path: string) => Promise<void>,
  before: readonly string[] = [],
): void {
  Deno.test({
    name,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () =>
      QueueDriver.run([...ARGS, ...args], async (driver, _, path) => {
        await driver.setUp(2);
        await body(driver, path);
      }, before),
  });
}

/** Sends words from a port of the guest on a pair. */
function send(driver: QueueDriver, host: HostUdp, pair: number, port: number): void {
  const words = bytesOf(`${port}`);
  driver.pairs[pair].driver.sent(); // its descriptors can be used again
  driver.send(pair, udpPacket(ENDS, port, host.port, words));
}

/** Waits until words from this port have come; all that came until then. */
async function heard(host: HostUdp, port: number): Promise<string[]> {
  const all: string[] = [];
  await until(`words from port ${port}`, () => {
    const got = host.receive();
    if (got !== undefined) all.push(textOf(got.bytes));
    return all.at(-1) === `${port}`;
  });
  return all;
}

withTwoPairs("a bound holds for both threads together", [
  "--max-udp",
  "3",
], async (driver) => {
  const host = new HostUdp(LOOPBACK4);
  // Two flows on one pair, one on the other.
  for (const [pair, port] of [[0, 4000], [0, 4001], [1, 4100]]) {
    send(driver, host, pair, port);
    assertEquals(await heard(host, port), [`${port}`]);
  }
  // No more on either; what was sent before on the same ring has been seen by then.
  for (const [pair, more, known] of [[0, 4002, 4001], [1, 4101, 4100]]) {
    send(driver, host, pair, more);
    send(driver, host, pair, known);
    assertEquals(await heard(host, known), [`${known}`]);
  }
  await until(
    "both threads tell",
    () =>
      driver.process.output.match(/3 UDP flows are all there may be \(--max-udp\)/g)
        ?.length === 2,
  );
  // A flow that changes threads is counted once, wherever it is.
  for (let i = 0; i < MANY; i++) {
    send(driver, host, 1, 4000);
    assertEquals(await heard(host, 4000), ["4000"]);
  }
  for (const [pair, more, known] of [[0, 4003, 4001], [1, 4103, 4000]]) {
    send(driver, host, pair, more);
    send(driver, host, pair, known);
    assertEquals(await heard(host, known), [`${known}`]);
  }
  host.close();
  driver.frontend.close();
  await until(
    "the guest is gone",
    () => driver.process.output.includes("frontend disconnected"),
  );
});

withTwoPairs("sockets of both threads stop short of the limit", [
  "--max-sockets",
  "2",
], async (driver) => {
  const host = new HostUdp(LOOPBACK4);
  for (const [pair, port] of [[0, 4000], [1, 4100]]) {
    send(driver, host, pair, port);
    assertEquals(await heard(host, port), [`${port}`]);
  }
  send(driver, host, 1, 4101);
  send(driver, host, 1, 4100);
  assertEquals(await heard(host, 4100), ["4100"]);
  const said = /2 sockets are all there may be \(--max-sockets, ulimit -Hn/;
  await until("it is said", () => said.test(driver.process.output));
  assertMatch(driver.process.output, said);
  host.close();
});

Deno.test("lines beyond --log-rate are left out and counted", async () => {
  await inFolder(async (folder) => {
    const path = `${folder}/socket`;
    const args = [...ARGS.slice(0, -2), "-f", "-s", path, "--log-rate", "1"];
    const process = new Process(vuelo(args).flat());
    try {
      await process.says(/Sandbox: /);
      await until("lines are left out", () => {
        try {
          close(connectUnix(path)); // of each there is a line
        } catch {
          // Too many wait: they have their lines, too.
        }
        return /\d+ lines were left out, more than 1 a second/.test(process.output);
      });
    } finally {
      await process.stop();
    }
  });
});

const FEW = 400;

withTwoPairs(
  "flows leave descriptors for the frontend, a helper and what they send",
  [],
  async (driver, path) => {
    const host = new HostUdp(LOOPBACK4);
    const said = () => /\d+ sockets are all there may be/.test(driver.process.output);
    for (let port = 4001; !said(); port++) {
      if (port > 4000 + FEW) throw new Error("more flows than descriptors");
      send(driver, host, 0, port);
      send(driver, host, 0, 4000);
      const all = await heard(host, 4000);
      if (!all.includes(`${port}`)) await until("the log tells", said);
    }
    await driver.share();
    for (const index of [0, 1, 2, 3]) {
      await driver.do(Ask.SET_VRING_CALL, u64(index), [driver.event()]);
    }
    const second = connectUnix(path);
    await until("a second frontend is told to go", () => isHungUp(second));
    const helper = connectUnix(`${path}.repair`);
    await until(
      "the helper is taken",
      () =>
        driver.process.output.includes(`repair helper (process ${Deno.pid}) connected`),
    );
    send(driver, host, 0, 4000);
    assertEquals(await heard(host, 4000), ["4000"]);
    [second, helper].forEach(close);
    host.close();
  },
  ["prlimit", `--nofile=${FEW}:${FEW}`, "--"],
);
