/** ARP (RFC 826): every IPv4 address but the guest's own is at vuelo's MAC address. */
import type { Config } from "../config.ts";
import {
  ADDRESS_SIZE,
  IPV4_AT,
  isUnspecified,
  MAC_SIZE,
  sameAddress,
} from "../wire/address.ts";
import {
  ARP_OPERATION_AT,
  ARP_SENDER_IP_AT,
  ARP_SENDER_MAC_AT,
  ARP_SIZE,
  ARP_TARGET_IP_AT,
  ArpOperation,
  isArp,
  writeArp,
} from "../wire/arp.ts";
import {
  ETHERNET_HEADER_SIZE,
  EtherType,
  etherType,
  isGroupMac,
  writeEthernet,
} from "../wire/ethernet.ts";
import { readIPv4Address } from "../wire/ipv4.ts";
import type { GuestState } from "./guest_state.ts";

const ARP_AT = ETHERNET_HEADER_SIZE;
const BROADCAST_MAC = new Uint8Array(MAC_SIZE).fill(0xff);
const NO_MAC = new Uint8Array(MAC_SIZE);

/** Answers requests for every IPv4 address but the guest's own (RFC 826). */
export class Arp {
  readonly #config: Config;
  readonly #guest: GuestState;
  readonly #senderMac = new Uint8Array(MAC_SIZE);
  readonly #sender = new Uint8Array(ADDRESS_SIZE);
  readonly #senderView = new DataView(this.#sender.buffer);
  readonly #target = new Uint8Array(ADDRESS_SIZE);
  readonly #targetView = new DataView(this.#target.buffer);

  constructor(config: Config, guest: GuestState) {
    this.#config = config;
    this.#guest = guest;
  }

  /**
   * Answers a guest's ARP request.
   *
   * @param frame Ethernet header on, `length` bytes
   * @param reply gets a whole frame
   * @returns bytes written, 0 if there is no answer
   */
  respond(frame: DataView, length: number, reply: DataView): number {
    if (length < ARP_AT || etherType(frame, 0) !== EtherType.arp) return 0;
    if (!isArp(frame, ARP_AT, length - ARP_AT)) return 0;
    if (frame.getUint16(ARP_AT + ARP_OPERATION_AT) !== ArpOperation.request) return 0;
    if (isGroupMac(frame, ARP_AT + ARP_SENDER_MAC_AT)) return 0;
    readIPv4Address(frame, ARP_AT + ARP_SENDER_IP_AT, this.#senderView, 0);
    readIPv4Address(frame, ARP_AT + ARP_TARGET_IP_AT, this.#targetView, 0);
    if (!this.#answers()) return 0;
    for (let i = 0; i < MAC_SIZE; i++) {
      this.#senderMac[i] = frame.getUint8(ARP_AT + ARP_SENDER_MAC_AT + i);
    }
    const { ourMac } = this.#config;
    writeEthernet(reply, 0, this.#senderMac, ourMac, EtherType.arp);
    writeArp(
      reply,
      ARP_AT,
      ArpOperation.reply,
      ourMac,
      this.#targetView,
      0,
      this.#senderMac,
      this.#senderView,
      0,
    );
    return ARP_AT + ARP_SIZE;
  }

  /**
   * Builds an announcement of the gateway (RFC 5227, section 2.3): a guest that has moved
   * here learns this vuelo's MAC address.
   *
   * @returns bytes written to `reply`, 0 if there is nothing to announce
   */
  announce(reply: DataView): number {
    const { ip4, ourMac } = this.#config;
    if (ip4 === undefined) return 0;
    const address = isUnspecified(ip4.gateway) ? ip4.ourAddress : ip4.gateway;
    if (isUnspecified(address)) return 0;
    this.#target.set(address);
    writeEthernet(reply, 0, BROADCAST_MAC, ourMac, EtherType.arp);
    writeArp(
      reply,
      ARP_AT,
      ArpOperation.request,
      ourMac,
      this.#targetView,
      0,
      NO_MAC,
      this.#targetView,
      0,
    );
    return ARP_AT + ARP_SIZE;
  }

  /** Whether the target's address is taken to be vuelo's, for this sender. */
  #answers(): boolean {
    const { ip4 } = this.#config;
    const target = this.#target;
    if (ip4 === undefined) return false;
    const first = target[IPV4_AT];
    if (first === 0 || first === 127 || first >= 224) return false;
    // A probe (RFC 5227, section 2.1.1) asks whether an address is free: only those that
    // vuelo goes by are not.
    if (this.#senderView.getInt32(IPV4_AT) === 0) {
      return sameAddress(target, ip4.ourAddress) || sameAddress(target, ip4.gateway);
    }
    // An announcement has the sender as its target (RFC 5227, section 2.3).
    return !sameAddress(target, this.#sender) && !sameAddress(target, ip4.address) &&
      !sameAddress(target, this.#guest.address4);
  }
}
