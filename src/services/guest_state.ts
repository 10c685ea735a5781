/** What is known of the guest: the addresses that its frames came from. */
import type { Config } from "../config.ts";
import { IPV4_AT } from "../wire/address.ts";
import { ARP_SENDER_IP_AT, isArp } from "../wire/arp.ts";
import {
  ETHERNET_HEADER_SIZE,
  ETHERNET_SOURCE_AT,
  EtherType,
  etherType,
  isGroupMac,
} from "../wire/ethernet.ts";
import { IPV4_HEADER_SIZE, IPV4_SOURCE_AT } from "../wire/ipv4.ts";
import { copyAddress, IPV6_HEADER_SIZE, IPV6_SOURCE_AT } from "../wire/ipv6.ts";

const IP_AT = ETHERNET_HEADER_SIZE;
const SIZE = 64;

/** The guest's addresses, as far as it has shown them. */
export class GuestState {
  /** ff:ff:ff:ff:ff:ff until the guest has sent something. */
  readonly mac: Uint8Array;
  /** Last IPv4 source, mapped; before that the address that the guest is to have. */
  readonly address4: Uint8Array;
  /** Last global (or unique local) IPv6 source; before that likewise. */
  readonly address6: Uint8Array;
  /** Last link-local IPv6 source; unspecified before. */
  readonly linkLocal6: Uint8Array;
  readonly #config: Config;
  readonly #mac: DataView;
  readonly #address4: DataView;
  readonly #address6: DataView;
  readonly #linkLocal6: DataView;

  /** @param memory for it, where other threads are to see the same: 64 bytes */
  constructor(config: Config, memory: ArrayBufferLike = new ArrayBuffer(SIZE)) {
    this.#config = config;
    this.mac = new Uint8Array(memory, 0, 6);
    this.address4 = new Uint8Array(memory, 8, 16);
    this.address6 = new Uint8Array(memory, 24, 16);
    this.linkLocal6 = new Uint8Array(memory, 40, 16);
    this.#mac = new DataView(memory, 0, 6);
    this.#address4 = new DataView(memory, 8, 16);
    this.#address6 = new DataView(memory, 24, 16);
    this.#linkLocal6 = new DataView(memory, 40, 16);
    this.reset();
  }

  /** Forgets what was learnt: another guest may come. */
  reset(): void {
    const { ip4, ip6 } = this.#config;
    this.mac.fill(0xff);
    this.address4.fill(0);
    this.address4[10] = this.address4[11] = 0xff;
    if (ip4 !== undefined) this.address4.set(ip4.address);
    this.address6.fill(0);
    if (ip6 !== undefined) this.address6.set(ip6.address);
    this.linkLocal6.fill(0);
  }

  /**
   * Notes the source addresses of a guest's frame, whose first `length` bytes, Ethernet
   * header on, are in `frame`. Addresses that are no host's are passed over.
   */
  learn(frame: DataView, length: number): void {
    if (length < ETHERNET_HEADER_SIZE) return;
    this.#learnMac(frame);
    switch (etherType(frame, 0)) {
      case EtherType.ipv4:
        if (length >= IP_AT + IPV4_HEADER_SIZE) {
          this.#learn4(frame.getInt32(IP_AT + IPV4_SOURCE_AT));
        }
        break;
      case EtherType.ipv6:
        if (length >= IP_AT + IPV6_HEADER_SIZE) {
          this.#learn6(frame, IP_AT + IPV6_SOURCE_AT);
        }
        break;
      case EtherType.arp:
        if (isArp(frame, IP_AT, length - IP_AT)) {
          this.#learn4(frame.getInt32(IP_AT + ARP_SENDER_IP_AT));
        }
    }
  }

  #learnMac(frame: DataView): void {
    const first = frame.getInt32(ETHERNET_SOURCE_AT);
    const last = frame.getUint16(ETHERNET_SOURCE_AT + 4);
    const known = this.#mac;
    if (first === known.getInt32(0) && last === known.getUint16(4)) return;
    if (isGroupMac(frame, ETHERNET_SOURCE_AT) || first === 0 && last === 0) return;
    known.setInt32(0, first);
    known.setUint16(4, last);
  }

  #learn4(address: number): void {
    if (address === this.#address4.getInt32(IPV4_AT)) return;
    const first = address >>> 24;
    // 0/8 "this network", loopback, and multicast up to broadcast (RFC 6890).
    if (first === 0 || first === 127 || first >= 224) return;
    this.#address4.setInt32(IPV4_AT, address);
  }

  #learn6(frame: DataView, at: number): void {
    const first = frame.getInt32(at);
    // fe80::/10 is link-local.
    const linkLocal = (first & 0xffc00000) === (0xfe800000 | 0);
    const known = linkLocal ? this.#linkLocal6 : this.#address6;
    if (
      frame.getInt32(at + 12) === known.getInt32(12) &&
      frame.getInt32(at + 8) === known.getInt32(8) &&
      frame.getInt32(at + 4) === known.getInt32(4) && first === known.getInt32(0)
    ) return;
    // ::/64 has the unspecified, loopback and mapped addresses, ff00::/8 is multicast.
    if (first === 0 && frame.getInt32(at + 4) === 0 || first >>> 24 === 0xff) return;
    copyAddress(frame, at, known, 0);
  }
}
