/** The guest's end of a TCP connection, as little of it as a benchmark needs. */
import { Protocol } from "../../../src/wire/ip.ts";
import { TcpFlag, writeTcpSynOptions } from "../../../src/wire/tcp.ts";
import { IP_AT, setIp, TCP_HEAD, TRANSPORT_AT } from "./frames.ts";
import type { World } from "./world.ts";

const SYN_OPTIONS = 8;
/** Of the guest and of vuelo (RFC 7323). */
export const GUEST_SCALE = 7;
const PEER_SCALE = 8;
/** Linux offers about half of tcp_rmem's 6 MiB. */
const WINDOW = 0x6000;
const DUPLICATES = 3;

/** Destination port of the TCP segment that the guest has got; -1: it is none. */
export function portOf(world: World): number {
  const { view, at } = world.rx;
  if (view.getUint16(at + IP_AT - 2) !== 0x0800) return -1;
  if (view.getUint8(at + IP_AT + 9) !== Protocol.tcp) return -1;
  return view.getUint16(at + TRANSPORT_AT + 2);
}

export class TcpGuest {
  established = false;
  /** The peer's FIN is in. */
  finished = false;
  window = WINDOW;
  sendNext = 0;
  sendUnacknowledged = 0;
  receiveNext = 0;
  #room = 0;
  #duplicates = 0;
  readonly #world: World;
  /** Slots whose frame is a SYN, which is longer than the others. */
  readonly #long: Uint8Array;
  #ports: number;

  constructor(world: World, port: number, peerPort: number) {
    this.#world = world;
    this.#long = new Uint8Array(world.tx.size);
    this.#ports = (port << 16) | peerPort;
  }

  /** Begins a new connection from `port`. */
  restart(port: number): void {
    this.#ports = (port << 16) | (this.#ports & 0xffff);
    this.established = this.finished = false;
    this.sendNext =
      this.sendUnacknowledged =
      this.receiveNext =
      this.#duplicates =
        0;
  }

  #write(flags: number, sequence: number): void {
    const { tx } = this.#world;
    const at = tx.at[tx.slot] + TRANSPORT_AT;
    const { view } = tx;
    view.setUint32(at, this.#ports);
    view.setInt32(at + 4, sequence);
    view.setInt32(at + 8, this.receiveNext);
    view.setUint16(at + 12, 0x5000 | flags);
    view.setUint16(at + 14, this.window);
  }

  sendSyn(): void {
    const { tx } = this.#world;
    const slot = tx.slot;
    const at = tx.at[slot] + TRANSPORT_AT;
    this.#write(TcpFlag.syn, this.sendNext++);
    tx.view.setUint8(at + 12, (20 + SYN_OPTIONS) << 2);
    writeTcpSynOptions(tx.view, at, this.#world.path.mtu - 40, GUEST_SCALE);
    setIp(tx, slot, Protocol.tcp, 20 + SYN_OPTIONS);
    this.#long[slot] = 1;
    tx.send(TCP_HEAD + SYN_OPTIONS);
  }

  /** Sends a segment without payload. */
  sendBare(flags: number): void {
    const { tx } = this.#world;
    const slot = tx.slot;
    if (this.#long[slot] !== 0) {
      this.#long[slot] = 0;
      setIp(tx, slot, Protocol.tcp, 20);
    }
    this.#write(flags, this.sendNext);
    tx.send(TCP_HEAD);
    if ((flags & TcpFlag.fin) !== 0) this.sendNext++;
  }

  /** Sends up to `count` frames of `payload` bytes, as the window allows. */
  sendData(count: number, payload: number): void {
    const { tx } = this.#world;
    let left = Math.min(count, tx.free);
    while (left-- > 0) {
      if ((this.sendNext - this.sendUnacknowledged | 0) + payload > this.#room) return;
      this.#write(TcpFlag.ack, this.sendNext);
      tx.sendCut();
      this.sendNext = this.sendNext + payload | 0;
    }
  }

  /** Takes the frame that the guest has got, a segment of this; payload bytes. */
  take(): number {
    const { view, at: frame } = this.#world.rx;
    const at = frame + TRANSPORT_AT;
    const flags = view.getUint8(at + 13);
    if ((flags & TcpFlag.rst) !== 0) throw new Error("the connection was reset");
    const header = view.getUint8(at + 12) >> 2 & ~3;
    const payload = view.getUint16(frame + IP_AT + 2) - 20 - header;
    const sequence = view.getInt32(at + 4);
    if ((flags & TcpFlag.syn) !== 0) {
      this.receiveNext = sequence + 1 | 0;
      this.established = true;
    } else if (sequence === this.receiveNext) {
      this.receiveNext = sequence + payload | 0;
      if ((flags & TcpFlag.fin) !== 0) {
        this.receiveNext = this.receiveNext + 1 | 0;
        this.finished = true;
      }
    }
    this.#takeAck(view.getInt32(at + 8), view.getUint16(at + 14), payload);
    return payload;
  }

  #takeAck(ack: number, window: number, payload: number): void {
    const room = window << PEER_SCALE;
    if (ack === this.sendUnacknowledged && payload === 0 && room === this.#room) {
      if (++this.#duplicates === DUPLICATES) this.sendNext = ack;
    } else this.#duplicates = 0;
    if ((ack - this.sendUnacknowledged | 0) > 0) this.sendUnacknowledged = ack;
    this.#room = room;
  }

  /** Opens the connection. */
  connect(): void {
    const { rx, tx } = this.#world;
    this.sendSyn();
    tx.publish();
    while (!this.established) {
      this.#world.turn();
      rx.poll();
      while (rx.take()) if (portOf(this.#world) >= 0) this.take();
      rx.refill();
    }
    this.sendBare(TcpFlag.ack);
    tx.publish();
    this.#world.turn();
  }
}
