/** Answers to segments for which there is no connection, or cannot be one. */
import { pseudoSum4, pseudoSum6 } from "../../wire/checksum.ts";
import { EtherType, writeEthernet } from "../../wire/ethernet.ts";
import { DEFAULT_TTL, Protocol } from "../../wire/ip.ts";
import { IPV4_HEADER_SIZE, writeIPv4 } from "../../wire/ipv4.ts";
import { writeIPv6 } from "../../wire/ipv6.ts";
import { TCP_CHECKSUM_AT, TCP_HEADER_SIZE, TcpFlag, writeTcp } from "../../wire/tcp.ts";
import { HEAD4, HEAD6, isFlow4 } from "../frame_head.ts";
import { unreachableCode } from "../outbound.ts";
import {
  FLOW_SIZE,
  FLOW_WORDS,
  FlowWord,
  KEY_ENDPOINT_AT,
  KEY_OUR_AT,
} from "../table.ts";
import { TcpWord } from "./layout.ts";
import type { TcpShared } from "./shared.ts";

/**
 * RST for the current packet, from the addresses and ports in the table's key (RFC 9293,
 * section 3.10.7.1): `length` counts its payload, SYN and FIN.
 */
export function sendStrayReset(
  t: TcpShared,
  sequence: number,
  acknowledgement: number,
  flags: number,
  length: number,
): void {
  const { sink, packet, table, guest, config } = t.context;
  const four = packet.version === 4;
  const at = four ? HEAD4 : HEAD6;
  sink.begin();
  if (sink.reserve(at + TCP_HEADER_SIZE, 0, undefined) < 0) return;
  const head = sink.head;
  const key = table.keyView;
  const type = four ? EtherType.ipv4 : EtherType.ipv6;
  writeEthernet(head, 0, guest.mac, config.ourMac, type);
  const size = TCP_HEADER_SIZE;
  const [ip, tcp, ttl] = [packet.ipAt, Protocol.tcp, DEFAULT_TTL];
  if (four) {
    const total = IPV4_HEADER_SIZE + size;
    writeIPv4(head, ip, total, tcp, ttl, key, KEY_OUR_AT, key, KEY_ENDPOINT_AT);
  } else {
    writeIPv6(head, ip, size, tcp, ttl, key, KEY_OUR_AT, key, KEY_ENDPOINT_AT);
  }
  const acked = (flags & TcpFlag.ack) !== 0;
  writeTcp(
    head,
    at,
    table.key[1] >>> 16,
    table.key[1] & 0xffff,
    acked ? acknowledgement : 0,
    acked ? 0 : (sequence + length) >>> 0,
    size,
    acked ? TcpFlag.rst : TcpFlag.rst | TcpFlag.ack,
    0,
  );
  const partial = four
    ? pseudoSum4(head, ip, tcp, size)
    : pseudoSum6(head, ip, tcp, size);
  head.setUint16(at + TCP_CHECKSUM_AT, partial);
  sink.commit(0, at + size, 0, at, TCP_CHECKSUM_AT, 0, 0);
  sink.end();
}

/** Ethernet, IP and TCP header of a SYN that is quoted. */
const quoted = new DataView(new ArrayBuffer(HEAD6 + TCP_HEADER_SIZE));

/**
 * Tells the guest by ICMP why its SYN came to nothing.
 *
 * @returns false if the error is none that ICMP has a word for
 */
export function sendUnreachable(t: TcpShared, flow: number, number: number): boolean {
  const four = isFlow4(t.words, flow);
  const code = unreachableCode(number, four);
  if (code < 0) return false;
  const { table } = t.context;
  const at = flow * FLOW_WORDS;
  const entry = flow * FLOW_SIZE;
  const view = table.view;
  const from = entry + FlowWord.guestEndpoint * 4;
  const to = entry + FlowWord.guestOur * 4;
  const size = TCP_HEADER_SIZE;
  const [tcp, ttl] = [Protocol.tcp, DEFAULT_TTL];
  const { config, guest } = t.context;
  const type = four ? EtherType.ipv4 : EtherType.ipv6;
  writeEthernet(quoted, 0, config.ourMac, guest.mac, type);
  if (four) {
    writeIPv4(quoted, 14, IPV4_HEADER_SIZE + size, tcp, ttl, view, from, view, to);
  } else writeIPv6(quoted, 14, size, tcp, ttl, view, from, view, to);
  const ports = t.words[at + FlowWord.guestPorts];
  const sequence = t.words[at + TcpWord.isnFromGuest] >>> 0;
  const start = four ? HEAD4 : HEAD6;
  writeTcp(
    quoted,
    start,
    ports & 0xffff,
    ports >>> 16,
    sequence,
    0,
    size,
    TcpFlag.syn,
    0,
  );
  return t.context.sendUnreachable(quoted, start + size, code);
}
