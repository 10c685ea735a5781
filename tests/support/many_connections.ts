/** A move of many connections within one process, without QEMU, and what it costs. */
import { concat } from "@std/bytes";
import { Epoll } from "../../ffi/event.ts";
import { raiseDescriptorLimit } from "../../ffi/process.ts";
import { queueLength, SIOCINQ } from "../../ffi/socket.ts";
import { sendBytes } from "../../ffi/tcp_repair.ts";
import { limitsOf } from "../../src/config.ts";
import { DataPath } from "../../src/flow/datapath.ts";
import { FLOW_WORDS } from "../../src/flow/table.ts";
import { TcpState, TcpWord } from "../../src/flow/tcp/layout.ts";
import { collect, takeEntries } from "../../src/migrate/collect.ts";
import { OwnRepair } from "../../src/repair/switch.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { decode, encodeVuelo } from "../../src/wire/state/decode.ts";
import type { MovedDevice } from "../../src/wire/state/model.ts";
import { flowConfig, OUR_MAC } from "./flow_config.ts";
import { HostListener, HostTcp } from "./host_tcp.ts";
import { pattern } from "./tcp_world.ts";

const NO_ADDRESS = new Uint8Array(16);
const DEVICE: MovedDevice = {
  mac: new Uint8Array(6).fill(0xff),
  address4: NO_ADDRESS,
  address6: NO_ADDRESS,
  linkLocal6: NO_ADDRESS,
  mtu: 1500,
  featuresLo: 0,
  featuresHi: 0,
  lease4: NO_ADDRESS,
  lease4Prefix: 0,
  lease6: NO_ADDRESS,
  lease6Prefix: 0,
  ourMac: OUR_MAC,
  savedAt: 0,
};
/** There is no guest. */
const memory = new GuestMemory(2 ** 32);
/** Connections that wait to be accepted. */
const BATCH = 32;

/** What a move cost: milliseconds of each stage, in order, and bytes of the stream. */
export interface MoveCost {
  readonly stages: ReadonlyMap<string, number>;
  readonly bytes: number;
  readonly moved: number;
  readonly lost: number;
}

/** Connections of this process with itself, one end of which belongs to a guest. */
export class ManyConnections {
  path: DataPath;
  readonly peers: HostTcp[] = [];
  readonly #repair = new OwnRepair();

  constructor(readonly count: number) {
    raiseDescriptorLimit();
    this.path = newPath(count);
    const listener = new HostListener();
    for (let i = 0; i < count; i++) {
      this.peers.push(HostTcp.connect(listener.address, listener.port));
      if (i % BATCH === BATCH - 1 || i === count - 1) {
        for (let turn = 0; turn < BATCH && this.path.table.count <= i; turn++) {
          this.path.tcp.onListener(listener.fd, 80);
        }
      }
    }
    listener.close();
    // As if the guest had accepted them all.
    const { table } = this.path;
    for (let flow = 0; flow < table.limit; flow++) {
      const at = flow * FLOW_WORDS;
      table.words[at] = (table.words[at] & ~0xff00) | (TcpState.established << 8);
      table.words[at + TcpWord.ackFromGuest] = table.words[at + TcpWord.seqToGuest];
    }
  }

  /** Bytes that the guest does not read and, as many, that peers do not read. */
  queue(bytes: number): void {
    for (const peer of this.peers) peer.send(pattern(bytes));
  }

  /** Moves all of them to a new data path. */
  move(): MoveCost {
    const stages = new Map<string, number>();
    const stage = <T>(name: string, body: () => T): T => {
      const start = performance.now();
      const result = body();
      stages.set(name, performance.now() - start);
      return result;
    };
    const source = this.path;
    const target = newPath(this.count);
    const repair = this.#repair;
    check("freeze", stage("freeze", () => source.tcp.freeze(repair)));
    const saved = stage("save", () => collect(source));
    const state = { ...saved, device: DEVICE, rules: [] };
    const stream = stage("write", () => concat(encodeVuelo(state, 2)));
    stage("close", () => source.tcp.discard());
    const read = stage("read", () => decode(stream).state!);
    const number = stage("restore", () => {
      const flows = takeEntries(target, read.entries);
      return target.tcp.restore(read.tcp, flows, repair, { loopback: true });
    });
    check("restore", number);
    check("thaw", stage("thaw", () => target.tcp.thaw(repair)));
    this.path = target;
    const lost = saved.tcp.filter((record) => record.lost !== "").length;
    return { stages, bytes: stream.length, moved: target.table.count - lost, lost };
  }

  /** Connections that carry a byte each way, beside `queued` that wait already. */
  alive(queued: number): number {
    const byte = pattern(1, 7);
    for (const peer of this.peers) peer.send(byte);
    let alive = 0;
    const { table } = this.path;
    for (let flow = 0; flow < table.limit; flow++) {
      const fd = table.fd(flow);
      const one = sendBytes(fd, new Uint8Array(byte)) === 1;
      if (one && queueLength(fd, SIOCINQ) === queued + 1) alive++;
    }
    const answered = this.peers.filter((peer) => {
      const got = peer.receive();
      return got instanceof Uint8Array && got.length === 1 && got[0] === byte[0];
    });
    return Math.min(alive, answered.length);
  }

  close(): void {
    this.path.dropAll();
    this.path.epoll.close();
    for (const peer of this.peers) peer.reset();
  }
}

function newPath(flows: number): DataPath {
  // All of them are offered to the guest before it answers one.
  const limits = limitsOf(undefined, { pendingTcp: flows });
  return new DataPath(flowConfig({ limits }), memory, new Epoll(), flows);
}

function check(what: string, number: number): void {
  if (number !== 0) throw new Error(`${what}: error ${number}`);
}

/** "5000 connections: freeze 80.1 ms, save 40.2 ms, ..., 290 bytes each". */
export function describeCost(count: number, { stages, bytes }: MoveCost): string {
  const times = [...stages].map(([name, ms]) => `${name} ${ms.toFixed(1)} ms`);
  const all = [...stages.values()].reduce((sum, ms) => sum + ms, 0);
  return `${count} connections: ${times.join(", ")}, ${all.toFixed(1)} ms in all; ` +
    `${Math.round(bytes / count)} bytes each`;
}
