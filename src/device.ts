/** The virtio network device that a vhost-user session drives, on top of its data path. */
import type { Epoll } from "../ffi/event.ts";
import { Errno } from "../ffi/errno.ts";
import { type Config, DEFAULT_LIMITS } from "./config.ts";
import { DataPath } from "./flow/datapath.ts";
import { log } from "./log.ts";
import type { Migration } from "./migrate/migration.ts";
import { RingReports } from "./threads/broken.ts";
import type { Settings } from "./threads/control.ts";
import { ThreadPool } from "./threads/pool.ts";
import type {
  Backend,
  FeatureBits,
  SessionLog,
  TransferAnswer,
  Vring,
} from "./vhost_user/backend.ts";
import { ProtocolFeature } from "./vhost_user/message.ts";
import { NetConfig } from "./vhost_user/net_config.ts";
import { GuestMemory } from "./virtio/guest_memory.ts";
import { NetFeature, NetFeatureHigh } from "./virtio/net_header.ts";
import { offeredFeatures } from "./virtio/offered.ts";

const NO_OFFLOADS: Settings["offloads"] = {
  mergeable: false,
  guestChecksum: false,
  largeReceive4: false,
  largeReceive6: false,
  eventIdx: false,
};

const LEGACY = "the guest's driver is a legacy one, without VIRTIO_F_VERSION_1 and " +
  "VIRTIO_NET_F_MRG_RXBUF; give the guest a modern device (QEMU: disable-legacy=on)";

/** What of a device differs in a rehearsal. */
export interface DeviceOptions {
  /** As many as the configuration allows, unless said otherwise. */
  readonly flows?: number;
  readonly memory?: GuestMemory;
  readonly log?: SessionLog;
}

/** The guest's network device: its data paths, as the vhost-user session drives them. */
export class NetDevice implements Backend {
  readonly deviceFeatures: FeatureBits;
  readonly protocolFeatures: number = ProtocolFeature.MQ | ProtocolFeature.LOG_SHMFD |
    ProtocolFeature.RARP | ProtocolFeature.REPLY_ACK | ProtocolFeature.NET_MTU |
    ProtocolFeature.BACKEND_REQ | ProtocolFeature.CONFIG | ProtocolFeature.RESET_DEVICE |
    ProtocolFeature.CONFIGURE_MEM_SLOTS | ProtocolFeature.STATUS |
    ProtocolFeature.DEVICE_STATE;
  readonly maxQueues: number;
  readonly memory: GuestMemory;
  readonly path: DataPath;
  readonly #config: NetConfig;
  readonly #running: (Vring | undefined)[];
  /** The threads of further queue pairs, if there are any. */
  readonly threads: ThreadPool | undefined;
  #offloads: Settings["offloads"] = NO_OFFLOADS;
  /** Moves the guest from and to other hosts; without, it stays where it is. */
  migration: Migration | undefined;
  /** The features that the driver accepted. */
  features: FeatureBits = { lo: 0, hi: 0 };
  /** Called when the guest starts or stops receiving. */
  onReceiving: (receiving: boolean) => void = () => {};
  /** Called when the guest and all flows of it are gone. */
  onGone: () => void = () => {};
  #receiving = false;
  /** The guest receives, and what follows from it is still to do. */
  #begun = false;

  readonly #log: SessionLog;

  constructor(config: Config, epoll: Epoll, options: DeviceOptions = {}) {
    const { queues, mtu, migrateFormat, offloads } = config;
    this.memory = options.memory ?? new GuestMemory();
    if (options.memory === undefined) {
      this.memory.files.sealedOnly = config.sealedMemory === true;
    }
    this.#log = options.log ?? log;
    this.deviceFeatures = offeredFeatures(migrateFormat, offloads, queues);
    this.threads = queues > 1 ? new ThreadPool(queues) : undefined;
    const flows = options.flows ?? (config.limits ?? DEFAULT_LIMITS).flows;
    this.path = new DataPath(config, this.memory, epoll, flows, this.threads);
    this.#config = new NetConfig(config.ourMac, queues, mtu === 0 ? 1500 : mtu);
    const reports = new RingReports(this.#log);
    this.path.faults.onBroken = (queue) => reports.broken(queue, this.#running[queue]);
    this.path.faults.onBadChains = (queue, count) =>
      reports.badChains(queue, this.#running[queue], count);
    this.maxQueues = 2 * queues;
    this.#running = new Array(2 * queues).fill(undefined);
  }

  setFeatures(features: FeatureBits): string | undefined {
    this.features = features;
    const has = (bit: number) => (features.lo & (1 << bit)) !== 0;
    const hasHigh = (bit: number) => (features.hi & (1 << bit)) !== 0;
    const guestChecksum = has(NetFeature.guestCsum);
    this.#offloads = {
      mergeable: has(NetFeature.mrgRxbuf),
      guestChecksum,
      largeReceive4: guestChecksum && has(NetFeature.guestTso4),
      largeReceive6: guestChecksum && has(NetFeature.guestTso6),
      largeDatagrams: guestChecksum && hasHigh(NetFeatureHigh.guestUso4) &&
        hasHigh(NetFeatureHigh.guestUso6),
      eventIdx: has(NetFeature.eventIdx),
    };
    this.path.setOffloads(this.#offloads);
    this.#log.debug(`features accepted: ${hex(features.hi)}${hex(features.lo)}`);
    // The net header of other drivers lacks num_buffers: all would be read 2 bytes off.
    const whole = hasHigh(NetFeatureHigh.version1) || this.#offloads.mergeable;
    return whole ? undefined : LEGACY;
  }

  startQueue(ring: Vring): void {
    this.#log.debug(
      `queue ${ring.index} starts at ${ring.baseIndex}, ${ring.size} entries, ` +
        `${ring.enabled ? "enabled" : "disabled"}`,
    );
    this.#running[ring.index] = ring;
    if (ring.index < 2) this.path.startQueue(ring);
    else {
      const settings = { offloads: this.#offloads, mtu: this.path.mtu };
      this.threads?.startQueue(ring, settings);
    }
    this.#noteReceiving();
  }

  stopQueue(index: number): number {
    const next = index < 2
      ? this.path.stopQueue(index)
      : this.threads?.stopQueue(index) ?? 0;
    this.#running[index] = undefined;
    this.#log.debug(`queue ${index} stops at ${next}`);
    this.#retire(index);
    this.#noteReceiving();
    return next;
  }

  updateQueue(ring: Vring): void {
    this.#running[ring.index] = ring;
    if (ring.index < 2) this.path.updateQueue(ring);
    else {
      this.threads?.updateQueue(ring);
      if (!ring.enabled) this.#retire(ring.index);
    }
    this.#noteReceiving();
  }

  /** A pair that no longer receives, while the first one does, can keep no flows. */
  #retire(index: number): void {
    if (index < 2 || index % 2 !== 0 || !this.path.receiving) return;
    this.threads?.take(index >> 1);
  }

  #noteReceiving(): void {
    const receiving = this.path.receiving;
    if (receiving === this.#receiving) return;
    this.settle();
    this.#receiving = receiving;
    if (receiving) this.#begun = true;
    else this.onReceiving(false);
  }

  /**
   * Does what follows from the guest's receiving: to be called once in a turn, after the
   * frontend was answered, which lets the guest run only then.
   */
  settle(): void {
    if (!this.#begun) return;
    this.#begun = false;
    this.migration?.ringsRun();
    this.onReceiving(true);
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
    this.#dropAll();
  }

  #dropAll(): void {
    if (this.threads === undefined) this.path.dropAll();
    else this.threads.dropAll();
  }

  transferState(direction: number, phase: number, fd: number): TransferAnswer {
    this.settle();
    const stopped = this.#running.every((ring) => ring === undefined);
    if (stopped) this.threads?.takeAll(); // a migration deals with one thread
    return this.migration?.begin(direction, phase, fd, stopped) ?? { accepted: false };
  }
  checkTransfer(): number | undefined {
    const { migration } = this;
    if (migration === undefined) return Errno.EINVAL;
    const result = migration.check();
    return migration.ended ? result : undefined;
  }

  closed(): void {
    this.#log.debug(this.summary());
    this.migration?.gone();
    this.#dropAll();
    this.path.forgetGuest();
    this.onGone();
  }

  /** One line of counters for the log. */
  summary(): string {
    return this.threads?.summary() ?? this.path.summary();
  }
}

function hex(word: number): string {
  return word.toString(16).padStart(8, "0");
}
