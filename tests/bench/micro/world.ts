/** A data path with rings, a fast driver and a loop like that of the service. */
import { Epoll } from "../../../ffi/event.ts";
import { EventKind } from "../../../src/flow/context.ts";
import { DataPath, KICK_INDEX } from "../../../src/flow/datapath.ts";
import { GuestMemory } from "../../../src/virtio/guest_memory.ts";
import { flowConfig } from "../../support/flow_config.ts";
import { GuestRam } from "../../support/mock_driver.ts";
import { RxRing, TxRing } from "./driver.ts";
import type { Meter } from "./meter.ts";

const RAM = [{ address: 0x10_0000, size: 0x800_0000 }];
/** Of QEMU's virtio-net, unless told otherwise. */
const RING_SIZE = 256;
/** As many buffers of 4 KiB as Linux posts where frames may be large. */
const LARGE_BUFFER = 4096;
/** Linux: GOOD_PACKET_LEN and the net header, in cache lines. */
const SMALL_BUFFER = 1536;
const FLOWS = 131_072;
/** A peer that says nothing for so long has failed. */
const SILENCE_MS = 3000;

export interface WorldOptions {
  readonly mtu?: number;
  /** VIRTIO_NET_F_GUEST_CSUM. */
  readonly checksumOffload?: boolean;
  /** VIRTIO_NET_F_GUEST_TSO4. */
  readonly largeReceive?: boolean;
  /** Longest frame of the guest. */
  readonly longestSent?: number;
}

export class World {
  readonly ram: GuestRam;
  readonly tx: TxRing;
  readonly rx: RxRing;
  readonly path: DataPath;
  readonly epoll = new Epoll();
  #silentSince = 0;

  constructor(readonly meter: Meter, options: WorldOptions = {}) {
    const { mtu = 1500, checksumOffload = true, largeReceive = false } = options;
    const memory = new GuestMemory(2 ** 32);
    this.ram = new GuestRam(memory, RAM);
    this.path = new DataPath(flowConfig({ mtu, ra: false }), memory, this.epoll, FLOWS);
    const large = largeReceive || mtu > 1500;
    this.tx = new TxRing(this.ram, RING_SIZE, options.longestSent ?? 1514);
    this.rx = new RxRing(this.ram, RING_SIZE, large ? LARGE_BUFFER : SMALL_BUFFER);
    this.path.setOffloads({
      mergeable: true,
      guestChecksum: checksumOffload,
      largeReceive4: largeReceive,
      largeReceive6: largeReceive,
      eventIdx: true,
    });
    this.path.startQueue(this.rx.vring);
    this.path.startQueue(this.tx.vring);
  }

  /** One turn of the service's loop, the part that is measured. */
  turn(): void {
    this.meter.enter();
    const { path, epoll } = this;
    const timeout = path.timeout();
    const count = epoll.wait(timeout < 0 || timeout > SILENCE_MS ? SILENCE_MS : timeout);
    path.now = performance.now();
    for (let i = 0; i < count; i++) this.#event(i);
    path.turn();
    this.meter.leave();
    if (count > 0) this.#silentSince = 0;
    else if (this.#silentSince === 0) this.#silentSince = path.now;
    else if (path.now - this.#silentSince > SILENCE_MS) {
      throw new Error(`nothing happens any more: ${path.summary()}`);
    }
  }

  #event(i: number): void {
    const data = this.epoll.data(i);
    const kind = data >>> 24;
    const index = data & 0xffffff;
    if (kind === EventKind.control) this.path.kicked(index - KICK_INDEX);
    else this.path.onSocket(kind, index, this.epoll.high(i), this.epoll.events(i));
  }

  /** Throws away what the guest has got; returns how many frames that were. */
  discard(): number {
    this.rx.poll();
    let frames = 0;
    while (this.rx.take()) frames++;
    this.rx.refill();
    return frames;
  }
}
