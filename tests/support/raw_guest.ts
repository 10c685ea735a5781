/**
 * A guest on split rings that transmits whatever it is given, as fast as it is given it:
 * buffers are fixed and used over and over, so that nothing of it grows. Written from the
 * specifications of virtio and vhost-user, independent of the code under test.
 */
import { close, eventfdCreate, eventfdWrite } from "../../ffi/event.ts";
import {
  Ask,
  asU64,
  Frontend,
  GuestRam,
  memoryTable,
  region,
  type Reply,
  state,
  u64,
  vringAddress,
} from "./frontend.ts";
import { until } from "./lab_process.ts";

/** REPLY_ACK. */
const PROTOCOL = 2 ** 3;
/** VERSION_1 is bit 32; MRG_RXBUF, protocol features. */
const FEATURES = 2 ** 32 + 2 ** 15 + 2 ** 30;
const USER = 0x7f00_0000_0000;
const RING = 256;
const NET_HEADER = 12;
const DESC_F_WRITE = 2;
/** Each ring has so much: descriptors, available ring, used ring. */
const RING_SPACE = 0x4000;
const AVAILABLE_AT = 0x1000;
const USED_AT = 0x2000;
const RX_AT = 2 * RING_SPACE;
/** Longer frames come in several buffers. */
const RX_SIZE = 4096;
const TX_AT = RX_AT + RING * RX_SIZE;
/** Room for a net header and a frame of 65,550 bytes, and more. */
const TX_SIZE = 0x1_1000;
const RAM_SIZE = 0x160_0000;

/** A read-modify-write of it is a memory barrier. */
const fence = new Int32Array(new SharedArrayBuffer(4));

/** Memory of guests that are gone, for those that come. */
const unused: GuestRam[] = [];

/** One ring, whose buffer `i` is that of descriptor `i`. */
class Ring {
  readonly #view: DataView;
  next = 0;
  seen = 0;

  constructor(readonly ram: GuestRam, readonly at: number) {
    this.#view = new DataView(ram.view.buffer, at, RING_SPACE);
  }

  /** Forgets what the memory's last user left there. */
  clear(): void {
    new Uint8Array(this.ram.view.buffer, this.at, RING_SPACE).fill(0);
  }

  /** Makes the buffer of descriptor `index` available. */
  offer(index: number, address: number, length: number, flags: number): void {
    const view = this.#view;
    view.setUint32(16 * index, address, true);
    view.setUint32(16 * index + 4, 0, true);
    view.setUint32(16 * index + 8, length, true);
    view.setUint32(16 * index + 12, flags, true);
    view.setUint16(AVAILABLE_AT + 4 + 2 * (this.next % RING), index, true);
    this.next = this.next + 1 & 0xffff;
    view.setUint16(AVAILABLE_AT + 2, this.next, true);
  }

  get used(): number {
    return this.#view.getUint16(USED_AT + 2, true);
  }
  /** The device does not ask for kicks. */
  get quiet(): boolean {
    return (this.#view.getUint16(USED_AT, true) & 1) !== 0;
  }
  /** Descriptor and length of the next used buffer; only while there is one. */
  take(): { index: number; length: number } {
    const at = USED_AT + 4 + 8 * (this.seen % RING);
    this.seen = this.seen + 1 & 0xffff;
    const index = this.#view.getUint32(at, true);
    if (index >= RING) throw new Error(`descriptor ${index} of ${RING} was used`);
    return { index, length: this.#view.getUint32(at + 4, true) };
  }
}

export class RawGuest {
  readonly #frontend: Frontend;
  readonly #ram: GuestRam;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #fds: number[] = [];
  readonly #kicks: number[] = [];
  readonly #rings: readonly [Ring, Ring];
  readonly #free: number[] = Array.from({ length: RING }, (_, i) => i);
  /** Rings that said what cannot be: the error descriptors of both. */
  readonly errors: number[] = [];
  /** Frames transmitted, and received. */
  sent = 0;
  received = 0;

  /** Connects to the socket at `path`. */
  constructor(path: string) {
    this.#frontend = Frontend.connect(path);
    this.#ram = unused.pop() ?? new GuestRam(RAM_SIZE);
    this.#bytes = new Uint8Array(this.#ram.view.buffer as ArrayBuffer);
    this.#rings = [new Ring(this.#ram, 0), new Ring(this.#ram, RING_SPACE)];
  }

  /** Sends a request and waits until it was done. */
  async #do(request: number, bytes: Uint8Array, fds: number[] = []): Promise<void> {
    this.#frontend.send(request, bytes, { needReply: true, fds });
    let reply: Reply | null = null;
    await until(
      `a reply to ${request}`,
      () => (reply = this.#frontend.receive()) !== null,
    );
    const answer = asU64(reply!.payload);
    if (answer !== 0) throw new Error(`request ${request} failed: ${answer}`);
  }

  #event(): number {
    const fd = eventfdCreate();
    this.#fds.push(fd);
    return fd;
  }

  /** Negotiates features and starts both rings, with all receive buffers posted. */
  async start(): Promise<void> {
    this.#frontend.send(Ask.SET_PROTOCOL_FEATURES, u64(PROTOCOL));
    await this.#do(Ask.SET_FEATURES, u64(FEATURES));
    const table = memoryTable(region(0, RAM_SIZE, USER, 0));
    await this.#do(Ask.SET_MEM_TABLE, table, [this.#ram.fd]);
    // From here on the last frontend, whose memory it may have been, is gone for vuelo.
    for (const ring of this.#rings) ring.clear();
    for (const [queue, ring] of this.#rings.entries()) {
      await this.#do(Ask.SET_VRING_NUM, state(queue, RING));
      await this.#do(Ask.SET_VRING_BASE, state(queue, 0));
      const at = USER + ring.at;
      await this.#do(
        Ask.SET_VRING_ADDR,
        vringAddress(queue, at, at + USED_AT, at + AVAILABLE_AT),
      );
      await this.#do(Ask.SET_VRING_CALL, u64(queue), [this.#event()]);
      this.errors.push(this.#event());
      await this.#do(Ask.SET_VRING_ERR, u64(queue), [this.errors[queue]]);
      this.#kicks.push(this.#event());
      await this.#do(Ask.SET_VRING_KICK, u64(queue), [this.#kicks[queue]]);
      await this.#do(Ask.SET_VRING_ENABLE, state(queue, 1));
    }
    for (let i = 0; i < RING; i++) this.#post(i);
    eventfdWrite(this.#kicks[0]);
  }

  #post(index: number): void {
    this.#rings[0].offer(index, RX_AT + index * RX_SIZE, RX_SIZE, DESC_F_WRITE);
  }

  /** Transmit buffers that are free. */
  get room(): number {
    const [, tx] = this.#rings;
    while (tx.seen !== tx.used) this.#free.push(tx.take().index);
    return this.#free.length;
  }

  /** Transmits a frame; false if the ring is full. Tell of it by {@link kick}. */
  offer(frame: Uint8Array): boolean {
    if (this.#free.length === 0 && this.room === 0) return false;
    const index = this.#free.pop()!;
    const at = TX_AT + index * TX_SIZE;
    this.#bytes.fill(0, at, at + NET_HEADER);
    this.#bytes.set(frame, at + NET_HEADER);
    this.#rings[1].offer(index, at, NET_HEADER + frame.length, 0);
    this.sent++;
    return true;
  }

  /** Has the device look, if it wants to be told. */
  kick(): void {
    // What was made available must be seen before it is looked whether to tell (2.7.13.3.1).
    Atomics.add(fence, 0, 1);
    if (!this.#rings[1].quiet) eventfdWrite(this.#kicks[1]);
  }

  /** As {@link kick}, for the receive ring. */
  #kickReceive(): void {
    Atomics.add(fence, 0, 1);
    if (!this.#rings[0].quiet) eventfdWrite(this.#kicks[0]);
  }

  /** Transmits a frame as soon as there is room. */
  async send(frame: Uint8Array): Promise<void> {
    if (!this.offer(frame)) {
      await until("room in the transmit ring", () => {
        this.kick();
        return this.offer(frame);
      });
    }
    this.kick();
  }

  /** Waits until the device has taken all that was sent. */
  async drained(): Promise<void> {
    this.kick();
    await until("the transmit ring is empty", () => this.room === RING);
  }

  /** Receive buffers that are full. */
  get waiting(): number {
    const [rx] = this.#rings;
    return rx.used - rx.seen & 0xffff;
  }

  /** The next frame that has come; its buffers are posted again. */
  receive(): Uint8Array<ArrayBuffer> | undefined {
    const [rx] = this.#rings;
    if (rx.seen === rx.used) return undefined;
    const first = this.#content(rx.take());
    const buffers = first[10] | first[11] << 8;
    const parts = [first.subarray(NET_HEADER)];
    for (let i = 1; i < buffers; i++) parts.push(this.#content(rx.take()));
    this.#kickReceive();
    this.received++;
    if (parts.length === 1) return parts[0];
    const frame = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      frame.set(part, at);
      at += part.length;
    }
    return frame;
  }

  #content(
    { index, length }: { index: number; length: number },
  ): Uint8Array<ArrayBuffer> {
    const at = RX_AT + index * RX_SIZE;
    const bytes = this.#bytes.slice(at, at + length);
    this.#post(index);
    return bytes;
  }

  /** The frontend goes, as when QEMU ends. */
  close(): void {
    this.#frontend.close();
    for (const fd of this.#fds) close(fd);
    unused.push(this.#ram);
  }
}
