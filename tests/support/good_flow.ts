/**
 * A well-behaved user of the network in a guest that may have worse ones: a TCP connection
 * over which everything comes back as it was sent, in order, and questions by ARP and DHCP.
 */
import { assert, assertEquals } from "@std/assert";
import { parseAddress } from "../../src/wire/address.ts";
import { type Addresses, GUEST_MAC } from "./guest_packets.ts";
import { HostListener, type HostTcp } from "./host_tcp.ts";
import { until } from "./lab_process.ts";
import type { RawGuest } from "./raw_guest.ts";
import { readSegment, type Segment, synOptions, tcpFrame } from "./tcp_segment.ts";

export const GUEST = parseAddress("192.0.2.5") as Uint8Array;
/** Leads to the host's loopback. */
export const GATEWAY = parseAddress("192.0.2.1") as Uint8Array;
export const ENDS = { from: GUEST, to: GATEWAY };
/** The network as vuelo is told of it. */
export const NETWORK = ["-a", "192.0.2.5/24", "-g", "192.0.2.1"];

const EMPTY: Uint8Array = new Uint8Array(0);

export type Received = ReturnType<typeof readSegment>;

/** Hands frames that come to whoever waits for them, by the port of the guest. */
export class Dispatcher {
  readonly #ports = new Map<number, (segment: Received) => void>();
  /** Gets what is not TCP for a known port. */
  other: (frame: Uint8Array<ArrayBuffer>) => void = () => {};

  constructor(readonly guest: RawGuest) {}

  on(port: number, take: (segment: Received) => void): void {
    this.#ports.set(port, take);
  }
  off(port: number): void {
    this.#ports.delete(port);
  }

  /** Takes all that has come. */
  pump(): void {
    for (;;) {
      const frame = this.guest.receive();
      if (frame === undefined) return;
      const tcp = frame[12] === 8 && frame[13] === 0 && frame[23] === 6;
      const take = tcp ? this.#ports.get(frame[36] << 8 | frame[37]) : undefined;
      if (take === undefined) this.other(frame);
      else take(readSegment(frame));
    }
  }
}

/** Byte `i` of what is sent: no two neighbours, rounds or connections are alike. */
function pattern(port: number, at: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (at + i) * 7 + (at + i >> 8) + port & 255);
}

/** Where a good flow leads, unless it is a listener of its own in this process. */
export interface FarEnd {
  readonly ends: Addresses;
  /** Somebody there sends back all that he gets. */
  readonly port: number;
}

export class GoodFlow {
  readonly listener: HostListener | undefined;
  host: HostTcp | undefined;
  readonly #far: FarEnd;
  #seq: number;
  #ack = 0;
  /** Bytes sent, and come back. */
  #sent = 0;
  back = 0;
  #acked = 0;
  #established = false;
  #fin = false;
  /** A round trip under way repeats what may have been lost; how often it had to. */
  repeats = 0;

  /** @param seq its initial sequence number */
  constructor(
    readonly to: Dispatcher,
    readonly port: number,
    seq = 1000,
    far?: FarEnd,
  ) {
    this.#seq = seq;
    if (far === undefined) this.listener = new HostListener();
    this.#far = far ?? { ends: ENDS, port: this.listener!.port };
    to.on(port, (segment) => this.#take(segment));
  }

  #send(flags: string, seq: number, data = EMPTY, options = EMPTY): Promise<void> {
    const segment: Segment = {
      flags,
      seq: seq >>> 0,
      ack: this.#ack,
      window: 65535,
      data,
      options,
    };
    return this.to.guest.send(
      tcpFrame(this.#far.ends, this.port, this.#far.port, segment),
    );
  }

  #take(segment: Received): void {
    if (segment.fromPort !== this.#far.port) return; // of another connection
    if (segment.flags.includes("R")) throw new Error("the good flow was reset");
    if (segment.flags.includes("S")) {
      assertEquals(segment.ack, this.#seq + 1 >>> 0);
      this.#ack = segment.seq + 1 >>> 0;
      this.#established = true;
      return;
    }
    const acked = segment.ack - this.#seq - 1 | 0;
    assert(acked <= this.#sent + 1, "what was never sent is acknowledged");
    if (acked > this.#acked) this.#acked = acked;
    if (segment.data.length > 0 && segment.seq === this.#ack) {
      const { length } = segment.data;
      assertEquals(segment.data, pattern(this.port, this.back, length));
      this.back += length;
      this.#ack = this.#ack + length >>> 0;
    }
    const end = segment.seq + segment.data.length >>> 0;
    if (segment.flags.includes("F") && end === this.#ack && !this.#fin) {
      this.#fin = true;
      this.#ack = this.#ack + 1 >>> 0;
    }
  }

  /** The far end's part: it sends back all that it gets. */
  #echo(): void {
    this.host ??= this.listener?.accept();
    if (this.host === undefined) return;
    for (;;) {
      const got = this.host.receive();
      if (!(got instanceof Uint8Array)) {
        if (got !== "end") throw new Error(`the far end failed: ${got}`);
        this.host.shutdown();
        return;
      }
      if (got.length === 0) return;
      if (this.host.send(got) !== got.length) throw new Error("echo: no space");
    }
  }

  /** Waits for `done`, asking again now and then, as any TCP does. */
  async #until(what: string, done: () => boolean, again: () => Promise<void>) {
    for (let looks = 1;; looks++) {
      this.#echo();
      this.to.pump();
      if (done()) return;
      await new Promise((resolve) => setTimeout(resolve, looks > 20 ? 5 : 0));
      if (looks % 200 !== 0) continue;
      if (looks > 4000) throw new Error(`${what} does not come`);
      this.repeats++;
      await again();
    }
  }

  async open(): Promise<void> {
    const options = synOptions(1460, 7);
    const syn = () => this.#send("S", this.#seq, EMPTY, options);
    await syn();
    await this.#until("a connection", () => this.#established, syn);
    await this.#send("A", this.#seq + 1);
    if (this.listener === undefined) return;
    await until("the far end's connection", () => {
      this.#echo();
      return this.host !== undefined;
    });
  }

  /** Sends `length` bytes and waits until they have come back, checked. */
  async roundTrip(length = 1000): Promise<void> {
    const data = pattern(this.port, this.#sent, length);
    const seq = this.#seq + 1 + this.#sent;
    this.#sent += length;
    const send = () => this.#send("PA", seq, data);
    await send();
    await this.#until("what was sent", () => this.back === this.#sent, send);
    await this.#send("A", this.#seq + 1 + this.#sent);
  }

  /** As {@link roundTrip}, without giving way to anything else: for measurements. */
  spin(length: number, wait = 1000): void {
    const data = pattern(this.port, this.#sent, length);
    const segment = {
      flags: "PA",
      seq: this.#seq + 1 + this.#sent >>> 0,
      ack: this.#ack,
      window: 65535,
      data,
      options: EMPTY,
    };
    const frame = tcpFrame(this.#far.ends, this.port, this.#far.port, segment);
    this.#sent += length;
    const { guest } = this.to;
    const end = performance.now() + wait;
    while (!guest.offer(frame)) guest.kick();
    guest.kick();
    while (this.back !== this.#sent) {
      this.#echo();
      this.to.pump();
      if (performance.now() < end) continue;
      throw new Error(`a round trip took longer than ${wait} ms`);
    }
  }

  /** Ends the connection in good order, both ways. */
  async close(): Promise<void> {
    const seq = this.#seq + 1 + this.#sent;
    const fin = () => this.#send("FA", seq);
    await fin();
    await this.#until("FIN", () => this.#fin && this.#acked > this.#sent, fin);
    await this.#send("A", seq + 1);
    this.abandon();
  }

  /** Closes the host's side as it is. */
  abandon(): void {
    this.to.off(this.port);
    this.host?.close();
    this.listener?.close();
  }
}

/** Asks who has the address of `to`, and waits for the answer. */
export async function askArp(to: Dispatcher, ends: Addresses = ENDS): Promise<void> {
  const frame = new Uint8Array(60);
  frame.set([255, 255, 255, 255, 255, 255, ...GUEST_MAC, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
  frame.set(GUEST_MAC, 22);
  frame.set(ends.from.subarray(12), 28);
  frame.set(ends.to.subarray(12), 38);
  const answers = (got: Uint8Array) =>
    got[12] === 8 && got[13] === 6 && got[21] === 2 && got[31] === frame[41];
  await ask(to, "ARP", frame, answers);
}

/** Sends a question until its answer has come. */
export async function ask(
  to: Dispatcher,
  what: string,
  frame: Uint8Array,
  answers: (frame: Uint8Array) => boolean,
): Promise<void> {
  const { other } = to;
  let answered = false;
  to.other = (got) => {
    if (answers(got)) answered = true;
    else other(got);
  };
  try {
    for (let tries = 0; !answered; tries++) {
      if (tries === 20) throw new Error(`no answer to ${what}`);
      await to.guest.send(frame);
      for (let looks = 0; looks < 100 && !answered; looks++) {
        to.pump();
        if (!answered) await new Promise((r) => setTimeout(r, looks > 10 ? 5 : 0));
      }
    }
  } finally {
    to.other = other;
  }
}
