/**
 * Whatever order a frontend asks for moves in: nothing is thrown, no descriptor or flow is
 * lost, and the next guest is served.
 */
import { concat } from "@std/bytes";
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { ForwardRule } from "../../src/config.ts";

import { decode, encodeVuelo } from "../../src/wire/state/decode.ts";
import { quietly } from "../support/quiet.ts";
import { ip } from "../support/flow_config.ts";
import { Ask, openDescriptors } from "../support/frontend.ts";
import { udpPacket } from "../support/guest_packets.ts";
import { HostTcp, LOOPBACK4 } from "../support/host_tcp.ts";
import { HostUdp } from "../support/host_udp.ts";
import { MovingHost, type TransferKind } from "../support/moving_host.ts";
import { sampleState } from "../support/state_samples.ts";
import { pattern } from "../support/tcp_world.ts";

const GUEST = ip("192.0.2.10");
const OUT = { from: GUEST, to: ip("192.0.2.1") };
const RUNS = 150;

/** A TCP and a UDP port of the host that nobody has, forwarded. */
function freeRules(): ForwardRule[] {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  const socket = new HostUdp(LOOPBACK4);
  socket.close();
  const rule = { address: LOOPBACK4, guestFirst: 80, weak: false };
  return [
    { ...rule, protocol: "tcp", first: port, last: port },
    { ...rule, protocol: "udp", first: socket.port, last: socket.port },
  ];
}

/** The world that steps take place in. */
class Scene {
  readonly before = openDescriptors();
  readonly udp = new HostUdp(LOOPBACK4);
  readonly peers: HostTcp[] = [];
  readonly #rules = freeRules();
  readonly host: MovingHost;
  /** Streams to load: one of another guest, and what was last saved here. */
  readonly #other = concat(encodeVuelo({ ...sampleState(), rules: [] }));
  #next = 4000;

  constructor() {
    this.host = new MovingHost({ forwards: this.#rules });
    this.host.device.path.guest.address4.set(GUEST);
  }

  stream(own: boolean): Uint8Array<ArrayBuffer> {
    const { stream } = this.host;
    return own && stream.length > 0 ? Uint8Array.from(stream) : this.#other;
  }
  /** The guest sends a datagram; that of a new flow, or a known one. */
  talk(fresh: boolean): void {
    if (fresh) this.#next++;
    this.host.driver.send(udpPacket(OUT, this.#next, this.udp.port, pattern(3)));
  }
  peerConnects(): void {
    this.peers.push(HostTcp.connect(LOOPBACK4, this.#rules[0].first));
  }
  peerSends(): void {
    this.udp.send(pattern(4), LOOPBACK4, this.#rules[1].first);
  }

  /** The next guest is served: its datagrams go out, its ports are open. */
  serveNext(): void {
    const { host, udp } = this;
    host.disconnect();
    assertEquals(host.device.path.table.count, 0, "flows lost");
    assertEquals(host.forwarder.rules.length, 2);
    while (udp.receive() !== undefined);
    host.helperCame();
    host.connect();
    host.device.path.guest.address4.set(GUEST);
    host.run(true);
    this.talk(true);
    host.settle();
    assert(udp.receive() !== undefined, "the next guest's datagram");
    const accepted = host.device.path.tcp.counters.accepted;
    this.peerConnects();
    host.settle();
    assert(host.device.path.tcp.counters.accepted > accepted, "a connection to it");
  }

  close(): void {
    this.host.close();
    this.udp.close();
    for (const peer of this.peers) peer.close();
  }
}

type Step = readonly [name: string, run: (scene: Scene) => void];

const kinds: fc.Arbitrary<TransferKind> = fc.constantFrom(
  "pipe",
  "pipe",
  "pipe",
  "wrong end",
  "file",
  "shared",
  "broken pipe",
);
const step = (name: string, run: (scene: Scene) => void): fc.Arbitrary<Step> =>
  fc.constant([name, run]);

const steps: fc.Arbitrary<Step> = fc.oneof(
  step("run", ({ host }) => host.run(true)),
  step("stop", ({ host }) => host.run(false)),
  fc.tuple(fc.nat(1), fc.nat(3)).map(([index, what]): Step => [
    `ring ${index} ${["starts", "stops", "enabled", "disabled"][what]}`,
    ({ host }) => {
      if (what === 0) host.start(index);
      else if (what === 1) host.stop(index);
      else host.enable(index, what === 2);
    },
  ]),
  {
    weight: 4,
    arbitrary: fc.tuple(fc.boolean(), kinds, fc.boolean()).map((
      [save, kind, halt],
    ): Step => [
      `${halt ? "stop, " : ""}${save ? "save" : "load"} through a ${kind}`,
      ({ host }) => {
        if (halt) host.run(false);
        host.begin(save, kind);
      },
    ]),
  },
  {
    weight: 3,
    arbitrary: fc.tuple(fc.boolean(), fc.double({ min: 0, max: 1, noNaN: true })).map((
      [own, part],
    ): Step => [
      `transfer of ${own ? "its own" : "another"} stream, ${part}`,
      (scene) => {
        const stream = scene.stream(own);
        const length = part > 0.3 ? stream.length : Math.floor(part * stream.length);
        scene.host.transfer(stream.subarray(0, length));
      },
    ]),
  },
  {
    weight: 4,
    arbitrary: step("stop, save all", ({ host }) => {
      host.run(false);
      if (!host.begin(true)) return;
      host.transfer();
      // What was saved can be read.
      if (host.check() === 0) decode(Uint8Array.from(host.stream));
    }),
  },
  {
    weight: 4,
    arbitrary: fc.boolean().map((own): Step => [
      `stop, load ${own ? "its own" : "another"} stream`,
      (scene) => {
        scene.host.run(false);
        if (!scene.host.begin(false)) return;
        scene.host.transfer(scene.stream(own));
        scene.host.endTransfer();
      },
    ]),
  },
  step("the transfer's end is closed", ({ host }) => host.endTransfer()),
  { weight: 2, arbitrary: step("check", ({ host }) => void host.check()) },
  step("reset device", ({ host }) => void host.ask(Ask.RESET_DEVICE)),
  step("status 0", ({ host }) => void host.ask(Ask.SET_STATUS, new Uint8Array(8))),
  step("memory table", ({ host }) => host.setMemory()),
  step("reconnect", ({ host }) => {
    host.disconnect();
    host.connect();
  }),
  step("the helper goes", ({ host }) => {
    host.helper.available = false;
  }),
  fc.nat(3).map((lives): Step => [`the helper dies after ${lives}`, ({ host }) => {
    host.helper.lives = lives;
  }]),
  step("a helper comes", ({ host }) => host.helperCame()),
  step("the guest talks", (scene) => scene.talk(true)),
  step("the guest talks on", (scene) => scene.talk(false)),
  step("a peer connects", (scene) => scene.peerConnects()),
  step("a peer sends", (scene) => scene.peerSends()),
  { weight: 3, arbitrary: step("turns", ({ host }) => host.settle()) },
);

Deno.test(
  "moves in any order",
  quietly(() => {
    new Scene().close(); // whatever is loaded once
    fc.assert(
      fc.property(fc.array(steps, { maxLength: 40 }), (list) => {
        const scene = new Scene();
        const done: string[] = [];
        try {
          scene.host.run(true);
          scene.talk(true);
          scene.peerConnects();
          scene.peerConnects();
          scene.peerSends();
          scene.host.settle();
          for (const [name, run] of list) {
            done.push(name);
            run(scene);
            if (!scene.host.connected) scene.host.connect();
          }
          done.push("the next guest");
          scene.serveNext();
        } catch (error) {
          throw new Error(`${done.join("\n")}\n${(error as Error).stack}`);
        } finally {
          scene.close();
        }
        assertEquals(openDescriptors() - scene.before, 0, "descriptors lost");
      }),
      { numRuns: RUNS },
    );
  }),
);
