/** A data path with a driver on its rings: frames in, frames out, host sockets real. */
import { Epoll } from "../../ffi/event.ts";
import type { Config } from "../../src/config.ts";
import { DataPath } from "../../src/flow/datapath.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { flowConfig } from "./flow_config.ts";
import { GuestRam, MockDriver, type RingOptions } from "./mock_driver.ts";

const memory = new GuestMemory(2 ** 34);
const RAM = [{ address: 0x10_0000, size: 0x1000_0000 }];
const NO_FD = -1;
const FLOWS = 1024;

export interface WorldOptions {
  readonly config?: Partial<Config>;
  readonly mergeable?: boolean;
  /** The guest takes partial checksums. */
  readonly guestChecksum?: boolean;
  /** The guest takes several datagrams as one frame. */
  readonly largeDatagrams?: boolean;
  readonly ring?: RingOptions;
  /** Guest memory that is not the usual one's. */
  readonly ram?: GuestRam;
}

export class FlowWorld {
  readonly ram: GuestRam;
  readonly driver: MockDriver;
  readonly path: DataPath;
  readonly epoll = new Epoll();

  constructor(options: WorldOptions = {}) {
    const { mergeable = true, guestChecksum = false, ring = {} } = options;
    const { largeDatagrams = false } = options;
    this.ram = options.ram ?? new GuestRam(memory, RAM);
    this.driver = new MockDriver(this.ram, mergeable, 256, ring);
    this.path = new DataPath(
      flowConfig({ ra: false, ...options.config }),
      this.ram.memory,
      this.epoll,
      FLOWS,
    );
    this.path.setOffloads({
      mergeable,
      guestChecksum,
      largeReceive4: false,
      largeReceive6: false,
      largeDatagrams,
      eventIdx: ring.eventIdx ?? false,
    });
    const none = { kickFd: NO_FD, callFd: NO_FD, errFd: NO_FD, enabled: true };
    const { rx, tx } = this.driver;
    this.path.startQueue({ index: 0, ...rx.layout, ...none });
    this.path.startQueue({ index: 1, ...tx.layout, ...none });
  }

  /** Handles what the driver and sockets have brought, until nothing more happens. */
  settle(): void {
    this.path.kicked(1);
    for (let quiet = 0; quiet < 2;) {
      const count = this.epoll.wait(0);
      this.path.now = performance.now();
      for (let i = 0; i < count; i++) this.event(i);
      this.path.turn();
      quiet = count > 0 ? 0 : quiet + 1;
    }
  }

  /** Hands on one result of epoll; tests with listeners replace this. */
  event(i: number): void {
    const data = this.epoll.data(i);
    const events = this.epoll.events(i);
    this.path.onSocket(data >>> 24, data & 0xffffff, this.epoll.high(i), events);
  }

  /** Frames that have come to the guest, without net headers. */
  frames(): Uint8Array[] {
    return this.driver.receive().map(({ frame }) => frame);
  }

  close(): void {
    this.path.dropAll();
    this.path.stopQueue(0);
    this.path.stopQueue(1);
    this.epoll.close();
    this.ram.close();
  }
}
