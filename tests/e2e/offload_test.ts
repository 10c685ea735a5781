/**
 * --offload: what a guest and vuelo leave to each other, as the guest's driver accepted
 * it, as ethtool shows it, and as captures on both sides find it.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLessOrEqual,
} from "@std/assert";
import { type Case, e2e, type World } from "../support/lab.ts";
import type { Transfer, Watched } from "../support/lab_agent.ts";
import { until } from "../support/lab_process.ts";
import { FAMILIES, IPV4 } from "../support/netns.ts";
import { type CapturedFrame, capturedSince, longest } from "../support/pcap_reader.ts";

const MTU = 1500;
const WIRE = MTU + 14;
/** Large frames are those that no wire of this MTU carries; most are much larger. */
const LARGE = 32 << 10;
const FEW = 5;
const BYTES = 8 << 20;
const LONG = 32 << 20;

/** Feature bits (virtio 1.3, section 5.1.3). */
const BITS = {
  "csum": 0,
  "guest-csum": 1,
  "guest-tso4": 7,
  "guest-tso6": 8,
  "guest-ecn": 9,
  "tso4": 11,
  "tso6": 12,
  "ecn": 13,
  "mrg-rxbuf": 15,
} as const;
type Name = keyof typeof BITS;
const NAMES = Object.keys(BITS) as Name[];

/** What ethtool(8) calls the features that stand for one offload. */
const ETHTOOL: readonly [Name, string][] = [
  ["csum", "tx-checksum-ip-generic"],
  ["tso4", "tx-tcp-segmentation"],
  ["tso6", "tx-tcp6-segmentation"],
  ["ecn", "tx-tcp-ecn-segmentation"],
];

const folder = Deno.makeTempDirSync({ prefix: "vuelo-offload-" });
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
Deno.chmodSync(folder, 0o777);
const file = `${folder}/guest.pcap`;

function assertIntact(result: Transfer, bytes: number): void {
  assertEquals([result.bytes, result.received], [bytes, result.sent]);
}

async function captured(work: () => Promise<void>): Promise<CapturedFrame[]> {
  const { size } = await Deno.stat(file);
  await work();
  return capturedSince(file, size);
}

async function accepted({ guest }: World, on: readonly Name[]): Promise<void> {
  const bits = await guest.shell("cat /sys/class/net/eth0/device/features");
  assertEquals(NAMES.filter((name) => bits[BITS[name]] === "1"), on);
}

async function shown({ guest }: World, on: readonly Name[]): Promise<void> {
  const text = await guest.run("ethtool", "-k", "eth0");
  const isOn = (feature: string) => new RegExp(`^\\s*${feature}: on`, "m").test(text);
  for (const [name, feature] of ETHTOOL) {
    assertEquals(isOn(feature), on.includes(name), feature);
  }
  const large = on.includes("guest-tso4") || on.includes("guest-tso6");
  assertEquals(isOn("rx-gro-hw"), large, "rx-gro-hw");
}

async function streams({ guest }: World): Promise<void> {
  for (const { peer: host } of FAMILIES) {
    assertIntact(await guest.call("download", { host, bytes: BYTES }), BYTES);
    assertIntact(await guest.call("upload", { host, bytes: BYTES }), BYTES);
    const datagrams = { host, first: 1, last: 1400, step: 97 };
    assertEquals((await guest.call("udp_echo", datagrams)).failed, []);
  }
}

/** Traffic, seen by vuelo's capture and by the guest's own. */
async function seen(world: World): Promise<[CapturedFrame[], Record<string, Watched>]> {
  // The guest's own merging of frames would look like large ones.
  await world.guest.run("ethtool", "-K", "eth0", "gro", "off");
  await world.guest.call("watch", {});
  const frames = await captured(() => streams(world));
  return [frames, await world.guest.call("watched", {})];
}

function assertLarge(frames: CapturedFrame[], fromGuest: boolean, kind: string): void {
  assertGreater(longest(frames, fromGuest, kind), LARGE, kind);
}
function assertSmall(frames: CapturedFrame[], fromGuest: boolean, kind: string): void {
  const length = longest(frames, fromGuest, kind);
  assertGreater(length, 1000, kind);
  assertLessOrEqual(length, WIRE, kind);
}

/** Frames are large, and checksums partial, where and only where they may be. */
async function used(world: World, on: readonly Name[]): Promise<void> {
  const [frames, watched] = await seen(world);
  for (const version of [4, 6] as const) {
    const check = (name: Name) => on.includes(name) ? assertLarge : assertSmall;
    check(`tso${version}`)(frames, true, `tcp ip${version}`);
    check(`guest-tso${version}`)(frames, false, `tcp ip${version}`);
    for (const protocol of ["tcp", "udp"]) {
      for (const [way, name] of [["out", "csum"], ["in", "guest-csum"]] as const) {
        const kind = `${way} ${protocol} ip${version}`;
        const { frames, partial } = watched[kind];
        assertGreater(frames, 10, kind);
        // Linux answers for closed connections with whole checksums, whatever is offered.
        if (on.includes(name)) assertGreaterOrEqual(partial, frames - FEW, kind);
        else assertEquals(partial, 0, kind);
      }
    }
  }
}

function cases(on: readonly Name[]): Case[] {
  return [
    { name: "the driver accepted these", run: (world) => accepted(world, on) },
    { name: "ethtool shows them", run: (world) => shown(world, on) },
    { name: "captures find them", run: (world) => used(world, on) },
  ];
}

const LIMITED: readonly [list: string, on: readonly Name[]][] = [
  ["none", []],
  ["-csum", NAMES.filter((name) => name === "mrg-rxbuf" || name.startsWith("guest-"))],
  ["-guest-csum", ["csum", "tso4", "tso6", "ecn", "mrg-rxbuf"]],
  [
    "-tso4,-guest-tso6,-mrg-rxbuf",
    ["csum", "guest-csum", "guest-tso4", "guest-ecn", "tso6", "ecn"],
  ],
  [
    "csum,tso4,guest_tso6,mrg_rxbuf",
    ["csum", "guest-csum", "guest-tso6", "tso4", "mrg-rxbuf"],
  ],
];
for (const [list, on] of LIMITED) {
  const args = ["-m", `${MTU}`, "--pcap", file, "--offload", list];
  e2e(`--offload ${list}`, { guest: { image: "full" }, backend: { args } }, cases(on));
}

/**
 * Both ways at once, over and over, while the guest's offloads are changed, and a stream
 * each way after that; frames seen since the change.
 */
async function switched(
  { guest }: World,
  ...settings: string[]
): Promise<CapturedFrame[]> {
  const { peer: host } = IPV4;
  let changed = false;
  const transfers = Promise.all((["download", "upload"] as const).map(async (way) => {
    for (let after = false; !after;) {
      after = changed;
      assertIntact(await guest.call(way, { host, bytes: LONG }), LONG);
    }
  }));
  transfers.catch(() => {});
  const { size: before } = await Deno.stat(file);
  await until("the transfers run", async () => {
    return (await Deno.stat(file)).size > before + LONG;
  });
  await guest.run("ethtool", "-K", "eth0", ...settings);
  const { size } = await Deno.stat(file);
  changed = true;
  await transfers;
  return capturedSince(file, size);
}

/** What was queued in the driver's ring as the switch came is larger still. */
function afterQueue(frames: CapturedFrame[]): CapturedFrame[] {
  const kept = frames.filter((frame) => frame.kind === "tcp ip4");
  return kept.slice(Math.floor(kept.length / 4));
}

e2e(
  "Offloads that the guest switches half way",
  {
    guest: { image: "full" },
    backend: { args: ["-m", `${MTU}`, "--pcap", file] },
  },
  [
    ...cases(NAMES),
    {
      name: "off: sending",
      run: async (world) => {
        const off = ["tso", "off", "gso", "off", "tx", "off"];
        const frames = afterQueue(await switched(world, ...off));
        assertSmall(frames, true, "tcp ip4");
        assertLarge(frames, false, "tcp ip4");
      },
    },
    {
      name: "and on again",
      run: async (world) => {
        const on = ["tx", "on", "gso", "on", "tso", "on"];
        assertLarge(await switched(world, ...on), true, "tcp ip4");
      },
    },
    {
      // QEMU keeps the control queue to itself and tells no vhost-user back-end, so large
      // frames go on coming; the driver takes them all the same.
      name: "off: receiving",
      run: async (world) => {
        const frames = await switched(world, "gro", "off", "rx-gro-hw", "off");
        assert(frames.length > 0);
      },
    },
    {
      name: "and on again",
      run: async (world) => {
        const on = ["gro", "on", "rx-gro-hw", "on"];
        assertLarge(await switched(world, ...on), false, "tcp ip4");
      },
    },
  ],
);
