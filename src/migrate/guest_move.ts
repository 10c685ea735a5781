/** The guest's flows, forwarded ports and addresses as a migration moves them. */
import { Errno, errnoName } from "../../ffi/errno.ts";
import type { DataPath } from "../flow/datapath.ts";
import { setDeaf } from "../flow/datagram_move.ts";
import type { Forwarder } from "../flow/forward.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord } from "../flow/table.ts";
import type { RestoreOptions } from "../flow/tcp/restore.ts";
import { UdpWord } from "../flow/udp_layout.ts";
import { announceAt } from "../host/announce.ts";
import { freeDescriptors } from "../host/descriptors.ts";
import { log } from "../log.ts";
import type { RepairSwitch } from "../repair/switch.ts";
import { formatAddress, isIPv4, isUnspecified, sameAddress } from "../wire/address.ts";
import type { MovedDatagramFlow, MovedDevice, MovedState } from "../wire/state/model.ts";
import { collect, takeEntries } from "./collect.ts";
import type { Movable } from "./movable.ts";

/** What the device knows of itself. */
export interface DeviceFacts {
  readonly featuresLo: number;
  readonly featuresHi: number;
}

const NONE = new Uint8Array(16);
/** RFC 791. */
const SMALLEST_MTU = 68;
/** Descriptors that are left for other things than flows. */
const SPARE_DESCRIPTORS = 16;
/** Flows of a kind that were not taken over and have a line of their own. */
const REFUSED_NAMED = 20;

/** A guest of one data path, as a migration moves it. */
export class GuestMove implements Movable {
  /** What changes repair mode now; may be another one with each migration. */
  repair: RepairSwitch | undefined;
  #frozen = false;
  /** All but TCP takes no packets. */
  #deaf = false;
  /** The link's MTU before a guest came with another. */
  #ownMtu: number | undefined;
  /** The guest came from elsewhere and has not run here yet. */
  #arrived = false;

  constructor(
    private readonly path: DataPath,
    private readonly forwarder: Forwarder,
    private readonly facts: () => DeviceFacts,
    private readonly options: RestoreOptions = {},
  ) {}

  freeze(): number {
    const { path, forwarder } = this;
    if (path.tcp.movable > 0 && !this.#canRepair("moved")) return Errno.EPERM;
    this.#frozen = this.#deaf = true;
    forwarder.hold();
    setDeaf(path, true);
    return path.tcp.freeze(this.repair);
  }

  #canRepair(what: string): boolean {
    if (this.repair?.available === true) return true;
    const missing = this.repair?.describe() ?? "no TCP repair is configured";
    log.warn(`TCP connections cannot be ${what}: ${missing}`);
    return false;
  }

  save(): MovedState {
    const { rules } = this.forwarder;
    return { device: this.#device(), ...collect(this.path), rules };
  }

  #device(): MovedDevice {
    const { guest, config, mtu } = this.path;
    const { ip4, ip6 } = config;
    return {
      mac: guest.mac,
      address4: guest.address4,
      address6: guest.address6,
      linkLocal6: guest.linkLocal6,
      mtu: config.mtu === 0 ? 0 : mtu,
      ...this.facts(),
      lease4: ip4?.address ?? NONE,
      lease4Prefix: ip4?.prefixLength ?? 0,
      lease6: ip6?.address ?? NONE,
      lease6Prefix: ip6?.prefixLength ?? 0,
      ourMac: config.ourMac,
      savedAt: Math.floor(Date.now() / 1000),
    };
  }

  restore(state: MovedState): number {
    if (state.tcp.length > 0 && !this.#canRepair("taken over")) return Errno.EPERM;
    const { path, forwarder } = this;
    const count = state.entries.length / FLOW_WORDS;
    const spare = freeDescriptors() - SPARE_DESCRIPTORS;
    if (count > 0 && (count > path.table.capacity || count > spare)) {
      log.warn(
        `the guest comes with ${count} flows, expected ${path.table.capacity} at most ` +
          "(--max-flows), " +
          `and descriptors for ${spare} sockets are left (see ulimit -Hn)`,
      );
      return Errno.EMFILE;
    }
    path.dropAll(); // what an earlier guest left
    forwarder.dropAdopted();
    this.#frozen = true;
    this.#takeDevice(state.device);
    forwarder.adopt(state.rules, spare - count);
    const flows = takeEntries(path, state.entries);
    const number = path.tcp.restore(state.tcp, flows, this.repair, this.options);
    if (number !== 0) {
      this.discard();
      return number;
    }
    this.#adoptDatagrams(state.udp, flows);
    this.#adoptDatagrams(state.ping, flows);
    this.#arrived = true;
    return 0;
  }

  #takeDevice(device: MovedDevice): void {
    const { guest, config } = this.path;
    guest.mac.set(device.mac);
    if (!isUnspecified(device.address4)) guest.address4.set(device.address4);
    if (!isUnspecified(device.address6)) guest.address6.set(device.address6);
    guest.linkLocal6.set(device.linkLocal6);
    if (device.mtu >= SMALLEST_MTU) {
      this.#ownMtu ??= this.path.mtu;
      this.path.mtu = device.mtu;
    }
    compareLease("IPv4", device.lease4, config.ip4?.address);
    compareLease("IPv6", device.lease6, config.ip6?.address);
  }

  #adoptDatagrams(moved: readonly MovedDatagramFlow[], flows: Int32Array): void {
    const { path } = this;
    const { table } = path;
    let refused = 0;
    for (const { flow: index, idle } of moved) {
      const flow = flows[index];
      if (flow < 0) continue;
      const udp = table.kind(flow) === FlowKind.udp;
      const number = udp
        ? path.udp.adopt(flow, idle, this.#listenerOf(flow))
        : path.ping.adopt(flow, idle);
      if (number === 0 || ++refused > REFUSED_NAMED) continue;
      const port = table.words[flow * FLOW_WORDS + FlowWord.guestPorts] & 0xffff;
      const what = `${udp ? "UDP" : "ping"} flow of the guest's port ${port}`;
      log.info(`a ${what} was not taken over: ${errnoName(number)}`);
    }
    if (refused > REFUSED_NAMED) {
      log.info(`${refused - REFUSED_NAMED} more flows were not taken over`);
    }
  }

  /** The forwarded port that a UDP flow came in through, undefined for its own socket. */
  #listenerOf(flow: number) {
    const { table } = this.path;
    const at = flow * FLOW_WORDS;
    if (table.words[at + UdpWord.listener] === 0) return undefined;
    const port = table.words[at + FlowWord.hostPorts] >>> 16;
    const four = isIPv4(table.bytes, flow * FLOW_SIZE + FlowWord.hostEndpoint * 4);
    return this.forwarder.datagramSocket(port, four);
  }

  thaw(): number {
    if (!this.#frozen) return 0;
    const number = this.path.tcp.thaw(this.repair);
    // All else needs no rights: it does not wait for those who have them.
    if (this.#arrived) this.#announce();
    this.#release();
    this.#frozen = number !== 0;
    return number;
  }

  catchLate(): boolean {
    if (!this.path.tcp.catchLate()) return false;
    this.#frozen = true;
    return true;
  }

  #announce(): void {
    const { path } = this;
    path.announce();
    const { ip4, ip6 } = path.config;
    if (ip4 !== undefined) announceAt(ip4.address, ip4.gateway, 0);
    if (ip6 !== undefined) announceAt(ip6.address, ip6.gateway, path.map.scope);
  }

  /** All but TCP takes packets again. */
  #release(): void {
    this.#arrived = false;
    if (!this.#deaf) return;
    this.#deaf = false;
    setDeaf(this.path, false);
    this.forwarder.unhold();
  }

  discard(): void {
    if (!this.#frozen) return;
    // Forwarded ports stay deaf: who asks here for a guest that left shall ask again.
    this.#frozen = this.#deaf = this.#arrived = false;
    this.path.tcp.discard();
    this.path.dropAll();
    this.forwarder.dropAdopted();
  }

  reset(): void {
    this.#frozen = false;
    this.path.tcp.resetFrozen();
    this.#release();
  }

  /** The guest is gone, and its flows are: so is what else it brought along. */
  forget(): void {
    this.forwarder.dropAdopted();
    this.path.mtu = this.#ownMtu ?? this.path.mtu;
    this.#ownMtu = undefined;
  }
}

function compareLease(family: string, theirs: Uint8Array, ours?: Uint8Array): void {
  if (isUnspecified(theirs)) return;
  if (ours !== undefined && sameAddress(theirs, ours, 0, 0)) return;
  const here = ours === undefined ? "none" : formatAddress(ours);
  log.warn(
    `the guest was given the ${family} address ${formatAddress(theirs)}, this vuelo ` +
      `would give it ${here}: start it with -a ${formatAddress(theirs)}`,
  );
}
