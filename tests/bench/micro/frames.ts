/** Frames of the guest, written once into every slot of its ring. */
import { EtherType, writeEthernet } from "../../../src/wire/ethernet.ts";
import { Protocol } from "../../../src/wire/ip.ts";
import { writeIPv4 } from "../../../src/wire/ipv4.ts";
import { writeTcp } from "../../../src/wire/tcp.ts";
import { writeUdp } from "../../../src/wire/udp.ts";
import { ip, IP4, OUR_MAC } from "../../support/flow_config.ts";
import { GUEST_MAC } from "../../support/guest_packets.ts";
import { NET_HEADER } from "../../support/mock_driver.ts";
import type { TxRing } from "./driver.ts";

/** Offsets from a slot's start: of the IP header, of the header after it, of payload. */
export const IP_AT = NET_HEADER + 14;
export const TRANSPORT_AT = IP_AT + 20;
/** Bytes before the payload of a frame, without the net header. */
export const TCP_HEAD = 54;
export const UDP_HEAD = 42;

const NEEDS_CSUM = 1;
const GSO_TCP4 = 1;
const TTL = 64;
const guest = new DataView(IP4.address.buffer as ArrayBuffer);
const gateway = new DataView(IP4.gateway!.buffer as ArrayBuffer);
/** The host's loopback, as the guest sees it. */
export const HOST = ip("192.0.2.1");

function writeIp(view: DataView, slot: number, protocol: number, length: number): void {
  writeEthernet(view, slot + NET_HEADER, OUR_MAC, GUEST_MAC, EtherType.ipv4);
  writeIPv4(view, slot + IP_AT, 20 + length, protocol, TTL, guest, 0, gateway, 0);
}

/** Sets `slot`'s IP header for `length` bytes of transport header and payload. */
export function setIp(tx: TxRing, slot: number, protocol: number, length: number): void {
  const at = tx.at[slot] + IP_AT;
  writeIPv4(tx.view, at, 20 + length, protocol, TTL, guest, 0, gateway, 0);
}

/** TCP frames with `payload` bytes, in segments of `mss` where that is less. */
export function prepareTcp(tx: TxRing, payload: number, mss: number): void {
  for (const slot of tx.at) {
    const { view } = tx;
    view.setUint8(slot, NEEDS_CSUM);
    view.setUint16(slot + 6, 34, true);
    view.setUint16(slot + 8, 16, true);
    if (payload > mss) {
      view.setUint8(slot + 1, GSO_TCP4);
      view.setUint16(slot + 2, TCP_HEAD, true);
      view.setUint16(slot + 4, mss, true);
    }
    writeIp(view, slot, Protocol.tcp, 20 + payload);
    writeTcp(view, slot + TRANSPORT_AT, 0, 0, 0, 0, 20, 0, 0);
  }
  if (payload > 0) tx.cut(TCP_HEAD + payload);
}

/** UDP frames with `payload` bytes. */
export function prepareUdp(
  tx: TxRing,
  from: number,
  to: number,
  payload: number,
): void {
  for (const slot of tx.at) {
    writeIp(tx.view, slot, Protocol.udp, 8 + payload);
    writeUdp(tx.view, slot + TRANSPORT_AT, from, to, 8 + payload);
    tx.view.setUint8(slot, NEEDS_CSUM);
    tx.view.setUint16(slot + 6, 34, true);
    tx.view.setUint16(slot + 8, 6, true);
  }
}

/** Requests for the gateway's address (RFC 826). */
export function prepareArp(tx: TxRing): void {
  for (const slot of tx.at) {
    const { view } = tx;
    const at = slot + NET_HEADER;
    const broadcast = new Uint8Array(6).fill(0xff);
    writeEthernet(view, at, broadcast, GUEST_MAC, EtherType.arp);
    view.setUint16(at + 14, 1);
    view.setUint16(at + 16, EtherType.ipv4);
    view.setUint16(at + 18, 0x0604);
    view.setUint16(at + 20, 1);
    for (let i = 0; i < 6; i++) view.setUint8(at + 22 + i, GUEST_MAC[i]);
    for (let i = 0; i < 4; i++) view.setUint8(at + 28 + i, IP4.address[12 + i]);
    for (let i = 0; i < 4; i++) view.setUint8(at + 38 + i, HOST[12 + i]);
  }
}
export const ARP_FRAME = 42;
