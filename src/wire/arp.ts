/** ARP for IPv4 over Ethernet (RFC 826): 28 bytes. */
import { EtherType, writeMac } from "./ethernet.ts";
import { writeIPv4Address } from "./ipv4.ts";

export const ARP_SIZE = 28;
export const ARP_OPERATION_AT = 6;
export const ARP_SENDER_MAC_AT = 8;
export const ARP_SENDER_IP_AT = 14;
export const ARP_TARGET_MAC_AT = 18;
export const ARP_TARGET_IP_AT = 24;

/** Operations (RFC 826). */
export const ArpOperation = { request: 1, reply: 2 } as const;

const HARDWARE_ETHERNET = 1;
/** Hardware address of 6 bytes, protocol address of 4. */
const LENGTHS = 0x0604;

/** Whether the `available` bytes at `at` hold an ARP packet of IPv4 over Ethernet. */
export function isArp(view: DataView, at: number, available: number): boolean {
  return available >= ARP_SIZE && view.getUint16(at) === HARDWARE_ETHERNET &&
    view.getUint16(at + 2) === EtherType.ipv4 && view.getUint16(at + 4) === LENGTHS;
}

/** Writes {@link ARP_SIZE} bytes. The IP addresses are 16 bytes, mapped. */
export function writeArp(
  view: DataView,
  at: number,
  operation: number,
  senderMac: Uint8Array,
  sender: DataView,
  senderAt: number,
  targetMac: Uint8Array,
  target: DataView,
  targetAt: number,
): void {
  view.setUint16(at, HARDWARE_ETHERNET);
  view.setUint16(at + 2, EtherType.ipv4);
  view.setUint16(at + 4, LENGTHS);
  view.setUint16(at + ARP_OPERATION_AT, operation);
  writeMac(view, at + ARP_SENDER_MAC_AT, senderMac);
  writeIPv4Address(view, at + ARP_SENDER_IP_AT, sender, senderAt);
  writeMac(view, at + ARP_TARGET_MAC_AT, targetMac);
  writeIPv4Address(view, at + ARP_TARGET_IP_AT, target, targetAt);
}
