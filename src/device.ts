/** The virtio network device that a vhost-user session drives, on top of its data path. */
import type { Epoll } from "../ffi/event.ts";
import { Errno } from "../ffi/errno.ts";
import { eventfdWrite } from "../ffi/event.ts";
import type { Config } from "./config.ts";
import { DataPath } from "./flow/datapath.ts";
import { log } from "./log.ts";
import type { Migration } from "./migrate/migration.ts";
import {
  type Backend,
  type FeatureBits,
  NO_FD,
  type SessionLog,
  type TransferAnswer,
  type Vring,
} from "./vhost_user/backend.ts";
import { ProtocolFeature } from "./vhost_user/message.ts";
import { NetConfig } from "./vhost_user/net_config.ts";
import { GuestMemory } from "./virtio/guest_memory.ts";
import { NetFeature } from "./virtio/net_header.ts";
import { offeredFeatures } from "./virtio/offered.ts";

/** Flows at once: TCP connections, UDP associations and pings together. */
export const MAX_FLOWS = 131_072;

export interface DeviceOptions {
  /** As many as {@link MAX_FLOWS} unless said otherwise. */
  readonly flows?: number;
  readonly memory?: GuestMemory;
  readonly log?: SessionLog;
}

export class NetDevice implements Backend {
  readonly deviceFeatures: FeatureBits;
  readonly protocolFeatures: number = ProtocolFeature.MQ | ProtocolFeature.LOG_SHMFD |
    ProtocolFeature.RARP | ProtocolFeature.REPLY_ACK | ProtocolFeature.NET_MTU |
    ProtocolFeature.BACKEND_REQ | ProtocolFeature.CONFIG | ProtocolFeature.RESET_DEVICE |
    ProtocolFeature.CONFIGURE_MEM_SLOTS | ProtocolFeature.STATUS |
    ProtocolFeature.DEVICE_STATE;
  readonly maxQueues = 2;
  readonly memory: GuestMemory;
  readonly path: DataPath;
  readonly #config: NetConfig;
  readonly #running: (Vring | undefined)[] = [undefined, undefined];
  /** Moves the guest from and to other hosts; without, it stays where it is. */
  migration: Migration | undefined;
  /** The features that the driver accepted. */
  features: FeatureBits = { lo: 0, hi: 0 };
  /** Called when the guest starts or stops receiving. */
  onReceiving: (receiving: boolean) => void = () => {};
  /** Called when the guest and all flows of it are gone. */
  onGone: () => void = () => {};
  #receiving = false;

  readonly #log: SessionLog;

  constructor(config: Config, epoll: Epoll, options: DeviceOptions = {}) {
    this.memory = options.memory ?? new GuestMemory();
    this.#log = options.log ?? log;
    this.deviceFeatures = offeredFeatures(config.migrateFormat, config.offloads);
    this.path = new DataPath(config, this.memory, epoll, options.flows ?? MAX_FLOWS);
    this.#config = new NetConfig(config.ourMac, 1, config.mtu === 0 ? 1500 : config.mtu);
    this.path.onBroken = (queue) => this.#broken(queue);
  }

  setFeatures(features: FeatureBits): void {
    this.features = features;
    const has = (bit: number) => (features.lo & (1 << bit)) !== 0;
    const guestChecksum = has(NetFeature.guestCsum);
    this.path.setOffloads({
      mergeable: has(NetFeature.mrgRxbuf),
      guestChecksum,
      largeReceive4: guestChecksum && has(NetFeature.guestTso4),
      largeReceive6: guestChecksum && has(NetFeature.guestTso6),
      eventIdx: has(NetFeature.eventIdx),
    });
    this.#log.debug(`features accepted: ${hex(features.hi)}${hex(features.lo)}`);
  }

  startQueue(ring: Vring): void {
    this.#log.debug(
      `queue ${ring.index} starts at ${ring.baseIndex}, ${ring.size} entries, ` +
        `${ring.enabled ? "enabled" : "disabled"}`,
    );
    this.#running[ring.index] = ring;
    this.path.startQueue(ring);
    this.#noteReceiving();
  }

  stopQueue(index: number): number {
    const next = this.path.stopQueue(index);
    this.#running[index] = undefined;
    this.#log.debug(`queue ${index} stops at ${next}`);
    this.#noteReceiving();
    return next;
  }

  updateQueue(ring: Vring): void {
    this.#running[ring.index] = ring;
    this.path.updateQueue(ring);
    this.#noteReceiving();
  }

  #noteReceiving(): void {
    const receiving = this.path.receiving;
    if (receiving === this.#receiving) return;
    this.#receiving = receiving;
    if (receiving) this.migration?.ringsRun();
    this.onReceiving(receiving);
  }

  /** A ring's indexes cannot be: no more of it is read, and the frontend is told. */
  #broken(queue: number): void {
    const ring = this.#running[queue];
    this.#log.warn(
      `queue ${queue}: the available index or a descriptor number is beyond the ring's ` +
        `${ring?.size ?? 0} entries; the queue stands still until the driver resets it`,
    );
    if (ring !== undefined && ring.errFd !== NO_FD) eventfdWrite(ring.errFd);
  }

  sendRarp(mac: Uint8Array): void {
    this.path.guest.mac.set(mac);
    this.path.announce();
  }

  setMtu(mtu: number): boolean {
    if (mtu < 68) return false;
    this.#config.mtu = mtu;
    this.path.mtu = mtu;
    return true;
  }

  getConfig(offset: number, size: number): Uint8Array | null {
    return this.#config.read(offset, size);
  }
  setConfig(): boolean {
    return false;
  }

  resetDevice(): void {
    this.path.dropAll();
  }
  transferState(direction: number, phase: number, fd: number): TransferAnswer {
    const stopped = this.#running.every((ring) => ring === undefined);
    return this.migration?.begin(direction, phase, fd, stopped) ?? { accepted: false };
  }
  checkTransfer(): number {
    return this.migration?.check() ?? Errno.EINVAL;
  }

  closed(): void {
    this.#log.debug(this.path.summary());
    this.migration?.gone();
    this.path.dropAll();
    this.path.forgetGuest();
    this.onGone();
  }
}

function hex(word: number): string {
  return word.toString(16).padStart(8, "0");
}
