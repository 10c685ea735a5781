/** Ethernet II header (RFC 894, RFC 2464): 14 bytes, no VLAN tag. */

export const ETHERNET_HEADER_SIZE = 14;
export const ETHERNET_DESTINATION_AT = 0;
export const ETHERNET_SOURCE_AT = 6;
export const ETHERNET_TYPE_AT = 12;

/** Types of payloads (IANA, IEEE 802 numbers). */
export const EtherType = { ipv4: 0x0800, arp: 0x0806, ipv6: 0x86dd } as const;

/** The address of all stations. */
export const BROADCAST_MAC: Uint8Array = new Uint8Array(6).fill(0xff);

/** EtherType of the frame at `at`; the caller has checked its 14 bytes. */
export function etherType(view: DataView, at: number): number {
  return view.getUint16(at + ETHERNET_TYPE_AT);
}

/** Whether the MAC address at `at` is a group address; broadcast is one too. */
export function isGroupMac(view: DataView, at: number): boolean {
  return (view.getUint8(at) & 1) !== 0;
}

/** Whether the MAC address at `at` is `mac`. */
export function isMac(view: DataView, at: number, mac: Uint8Array): boolean {
  for (let i = 0; i < 6; i++) if (view.getUint8(at + i) !== mac[i]) return false;
  return true;
}

/** Writes the six bytes of `mac` at `at`. */
export function writeMac(view: DataView, at: number, mac: Uint8Array): void {
  for (let i = 0; i < 6; i++) view.setUint8(at + i, mac[i]);
}

/** Writes a header of {@link ETHERNET_HEADER_SIZE} bytes. */
export function writeEthernet(
  view: DataView,
  at: number,
  destination: Uint8Array,
  source: Uint8Array,
  type: number,
): void {
  writeMac(view, at + ETHERNET_DESTINATION_AT, destination);
  writeMac(view, at + ETHERNET_SOURCE_AT, source);
  view.setUint16(at + ETHERNET_TYPE_AT, type);
}
