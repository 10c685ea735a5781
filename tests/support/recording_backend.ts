/** A backend without a device, which writes down what a session makes of messages. */
import { close } from "../../ffi/event.ts";
import type {
  Backend,
  FeatureBits,
  TransferAnswer,
  Vring,
} from "../../src/vhost_user/backend.ts";
import { ProtocolFeature } from "../../src/vhost_user/message.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";

/** Addresses are never given back to the kernel, so that all tests share one range. */
const sharedMemory = new GuestMemory(2 ** 34);

export class RecordingBackend implements Backend {
  deviceFeatures: FeatureBits = { lo: (1 << 26) | (1 << 5) | (1 << 3), hi: 1 };
  protocolFeatures = Object.values(ProtocolFeature).reduce((all, bit) => all | bit, 0);
  maxQueues = 4;
  readonly memory = sharedMemory;
  /** What happened since the last call of {@link take}. */
  events: string[] = [];
  /** Rings that run, as they are now. */
  readonly running = new Map<number, Vring>();
  /** What stopQueue() returns: entries used since the start. */
  progress = 0;
  config: Uint8Array = Uint8Array.from({ length: 28 }, (_, i) => i);
  acceptsTransfer = true;
  /** Descriptor that goes back to the frontend. */
  transferInstead: number | undefined;

  take(): string[] {
    return this.events.splice(0);
  }
  /** What {@link setFeatures} answers. */
  useless: string | undefined;
  setFeatures({ lo, hi }: FeatureBits): string | undefined {
    this.events.push(`features ${lo.toString(16)} ${hi.toString(16)}`);
    return this.useless;
  }
  startQueue(ring: Vring): void {
    if (this.running.has(ring.index)) throw new Error("started twice");
    this.running.set(ring.index, ring);
    this.events.push(
      `start ${ring.index} at ${ring.baseIndex}${ring.enabled ? "" : " disabled"}`,
    );
  }
  stopQueue(index: number): number {
    const ring = this.running.get(index);
    if (ring === undefined) throw new Error("stopped without a start");
    this.running.delete(index);
    this.events.push(`stop ${index}`);
    return ring.baseIndex + this.progress;
  }
  updateQueue(ring: Vring): void {
    this.events.push(`update ${ring.index}${ring.enabled ? "" : " disabled"}`);
  }
  sendRarp(mac: Uint8Array): void {
    this.events.push(`rarp ${mac.toHex()}`);
  }
  setMtu(mtu: number): boolean {
    this.events.push(`mtu ${mtu}`);
    return mtu !== 1234;
  }
  getConfig(offset: number, size: number): Uint8Array | null {
    if (offset + size > this.config.length) return null;
    return this.config.slice(offset, offset + size);
  }
  setConfig(offset: number, bytes: Uint8Array, migrating: boolean): boolean {
    this.events.push(`config ${offset} ${bytes.toHex()}`);
    return migrating;
  }
  resetDevice(): void {
    this.events.push("reset");
  }
  transferState(direction: number, phase: number, fd: number): TransferAnswer {
    this.events.push(`transfer ${direction} ${phase}`);
    if (this.acceptsTransfer) close(fd);
    return { accepted: this.acceptsTransfer, instead: this.transferInstead };
  }
  checkTransfer(): number {
    this.events.push("check");
    return this.acceptsTransfer ? 0 : 95;
  }
  closed(): void {
    this.events.push("closed");
  }
}
