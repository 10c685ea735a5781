/**
 * struct virtio_net_config (virtio 1.3, 5.1.4), which drivers read through GET_CONFIG
 * where the frontend does not keep it itself. All of it is read-only.
 */

const MAC_AT = 0;
const STATUS_AT = 6;
const MAX_PAIRS_AT = 8;
const MTU_AT = 10;
const SPEED_AT = 12;
const DUPLEX_AT = 16;
/** Up to the MTU, then speed, duplex and the fields of RSS, which is not offered. */
const SIZE = 28;

const LINK_UP = 1;
const UNKNOWN_SPEED = 0xffff_ffff;
const UNKNOWN_DUPLEX = 0xff;

/** The device's configuration space: struct virtio_net_config. */
export class NetConfig {
  readonly #bytes = new Uint8Array(SIZE);
  readonly #view = new DataView(this.#bytes.buffer);

  /** @param mac 6 bytes */
  constructor(mac: Uint8Array, maxQueuePairs: number, mtu: number) {
    this.#bytes.set(mac.subarray(0, 6), MAC_AT);
    this.#view.setUint16(STATUS_AT, LINK_UP, true);
    this.#view.setUint16(MAX_PAIRS_AT, maxQueuePairs, true);
    this.#view.setUint32(SPEED_AT, UNKNOWN_SPEED, true);
    this.#view.setUint8(DUPLEX_AT, UNKNOWN_DUPLEX);
    this.mtu = mtu;
  }

  /** The MTU in bytes. */
  get mtu(): number {
    return this.#view.getUint16(MTU_AT, true);
  }
  set mtu(mtu: number) {
    this.#view.setUint16(MTU_AT, mtu, true);
  }

  /** A copy of a part, or null if it reaches beyond the structure. */
  read(offset: number, size: number): Uint8Array | null {
    return offset + size <= SIZE ? this.#bytes.slice(offset, offset + size) : null;
  }
}
