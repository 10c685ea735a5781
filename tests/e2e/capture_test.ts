/** What --pcap writes is a capture that tshark reads without one complaint. */
import { assert, assertEquals, assertGreater } from "@std/assert";
import { program } from "../../scripts/lab/packages.ts";
import { type Case, DNS, e2e, NAME, type World } from "../support/lab.ts";
import { run } from "../support/lab_process.ts";
import { FAMILIES, IPV4, IPV6 } from "../support/netns.ts";

const folder = Deno.makeTempDirSync({ prefix: "vuelo-capture-" });
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
Deno.chmodSync(folder, 0o777);
const file = `${folder}/guest.pcap`;

/** tshark's names of protocols, each of which must be in the capture. */
const PROTOCOLS = ["arp", "dhcp", "icmp", "icmpv6", "dns", "udp", "tcp"];
/** All that tshark may look for: noise on port 7000 is not the Gryphon protocol. */
const DISSECTED = [
  ...PROTOCOLS,
  "frame",
  "eth",
  "ethertype",
  "ip",
  "ipv6",
  "dhcpv6",
  "data",
];
const CHECKSUMS = ["ip", "tcp", "udp", "icmp", "icmpv6"];

async function start(args: readonly string[]): Promise<string[]> {
  const { path, args: before, env } = await program("tshark");
  const config = { ...env, WIRESHARK_CONFIG_DIR: folder };
  const text = await run([path, ...before, ...args], { env: config });
  return text.split("\n").filter((line) => line !== "");
}

/** Leaves tshark only the protocols of DISSECTED and its own marks. */
async function restrict(): Promise<void> {
  const names = (await start(["-G", "protocols"])).map((line) => line.split("\t")[2])
    .filter((name) => !DISSECTED.includes(name) && !name.startsWith("_ws"));
  await Deno.writeTextFile(`${folder}/disabled_protos`, names.join("\n") + "\n");
}

async function tshark(filter: string): Promise<string[]> {
  const check = ["ip", "tcp", "udp"]
    .flatMap((name) => ["-o", `${name}.check_checksum:TRUE`]);
  return await start(["-n", "-r", file, ...check, "-Y", filter]);
}

async function traffic({ guest }: World): Promise<void> {
  for (const { peer: host } of FAMILIES) {
    await guest.call("download", { host, bytes: 8 << 20 });
    await guest.call("upload", { host, bytes: 8 << 20 });
    await guest.call("many", { host, count: 50, bytes: 3000 });
    await guest.call("reset", { host });
    await guest.call("connect", { host, port: 9 });
    await guest.call("udp_echo", { host, first: 0, last: 1400, step: 7 });
    await guest.call("udp_echo", { host, first: 9, last: 9, port: 9, tries: 1 });
    await guest.run("ping", "-c", "2", "-i", "0.1", host);
  }
  await guest.run("arping", "-c", "1", "-I", "eth0", IPV4.gateway);
  await guest.call("resolve", { name: NAME, server: DNS });
}

const cases: Case[] = [
  {
    name: "all kinds of traffic, then the end",
    run: async (world) => {
      await traffic(world);
      await world.guest.stop();
      const status = await world.backend.process.stop();
      assert(status.success || status.signal === "SIGTERM", JSON.stringify(status));
    },
  },
  {
    name: "every protocol is in it, both ways",
    run: async () => {
      await restrict();
      for (const protocol of PROTOCOLS) {
        assertGreater((await tshark(protocol)).length, 0, protocol);
      }
      for (const peer of [`ip.src==${IPV4.peer}`, `ip.dst==${IPV4.peer}`]) {
        assertGreater((await tshark(peer)).length, 100);
      }
      for (const peer of [`ipv6.src==${IPV6.peer}`, `ipv6.dst==${IPV6.peer}`]) {
        assertGreater((await tshark(peer)).length, 100);
      }
    },
  },
  {
    name: "no packet is malformed or cut short",
    run: async () => {
      assertEquals(
        await tshark("_ws.malformed || _ws.short || _ws.unreassembled"),
        [],
      );
      assertEquals(await tshark("frame.cap_len < frame.len"), []);
    },
  },
  {
    name: "no checksum is wrong",
    run: async () => {
      const bad = CHECKSUMS.map((name) => `${name}.checksum.status == "Bad"`).join(
        " || ",
      );
      assertEquals(await tshark(bad), []);
    },
  },
];

e2e("A capture", { guest: {}, backend: { args: ["--pcap", file] } }, cases);
