import { assertEquals } from "@std/assert";
import fc from "fast-check";
import golden from "../../tests/golden/neighbours.json" with { type: "json" };
import { frameOf, hexOf, ip, serviceConfig } from "../../tests/support/service_config.ts";
import type { Config } from "../config.ts";
import { formatAddress, formatMac } from "../wire/address.ts";
import { Arp } from "./arp.ts";
import { GuestState } from "./guest_state.ts";
import { packetTooBig, timeExceeded, unreachable } from "./icmp_error.ts";
import { Ndp } from "./ndp.ts";

const reply = new DataView(new ArrayBuffer(2048));

function learnt(config: Config, ...frames: string[]): GuestState {
  const guest = new GuestState(config);
  for (const hex of frames) guest.learn(frameOf(hex), hex.length / 2);
  return guest;
}

function arp(hex: string, config = serviceConfig()): string {
  const length = new Arp(config, learnt(config, hex)).respond(
    frameOf(hex),
    hex.length / 2,
    reply,
  );
  return hexOf(reply, length);
}

function ndp(hex: string, config = serviceConfig()): string {
  const length = new Ndp(config, learnt(config, hex)).respond(
    frameOf(hex),
    hex.length / 2,
    reply,
  );
  return hexOf(reply, length);
}

/** The captured request with other sender and target addresses, as hexadecimal. */
function request(sender: string, target: string): string {
  const start = golden.arpRequest.slice(0, 56);
  return `${start}${sender}000000000000${target}`;
}

/** RFC 1071 byte by byte: whether a packet with its pseudo-header sums up to -0. */
function sumsUp(bytes: number[]): boolean {
  let total = 0;
  bytes.forEach((byte, i) => total += i % 2 === 0 ? byte * 256 : byte);
  while (total > 0xffff) total = total % 0x10000 + Math.floor(total / 0x10000);
  return total === 0xffff;
}

function icmpv6Ok(hex: string): boolean {
  const bytes = Array.from(
    { length: hex.length / 2 },
    (_, i) => parseInt(hex.slice(2 * i, 2 * i + 2), 16),
  );
  const size = bytes.length - 54;
  return sumsUp([
    ...bytes.slice(22, 54),
    size >> 8,
    size & 255,
    0,
    58,
    ...bytes.slice(54),
  ]);
}

Deno.test("ARP: answers as a Linux router did", () => {
  assertEquals(arp(golden.arpRequest), golden.arpReply);
});

Deno.test("ARP: the gateway is announced as RFC 5227, section 2.3 has it", () => {
  const config = serviceConfig();
  const length = new Arp(config, new GuestState(config)).announce(reply);
  const mac = config.ourMac.toHex();
  assertEquals(
    hexOf(reply, length),
    `ffffffffffff${mac}08060001080006040001${mac}c0000201000000000000c0000201`,
  );
  const none = serviceConfig({ ip4: undefined });
  assertEquals(new Arp(none, new GuestState(none)).announce(reply), 0);
});

Deno.test("NDP: the router is announced as RFC 4861, section 7.2.6 has it", () => {
  const config = serviceConfig();
  const hex = hexOf(reply, new Ndp(config, new GuestState(config)).announce(reply));
  const link = hexOf(new DataView(config.ourLinkLocal.slice().buffer), 16);
  const mac = config.ourMac.toHex();
  assertEquals(hex.slice(0, 28), `333300000001${mac}86dd`);
  assertEquals(hex.slice(44, 108), `${link}ff020000000000000000000000000001`);
  // Type 136, code 0; flags router and override; the target; its link-layer address.
  assertEquals(hex.slice(108, 112), "8800");
  assertEquals(hex.slice(116), `a0000000${link}0201${mac}`);
  assertEquals(icmpv6Ok(hex), true);
});

Deno.test("ARP: the guest's own address, announcements and free addresses", () => {
  const [own, router, other] = ["c0000202", "c0000201", "c0000263"];
  assertEquals(arp(request("c0000203", own)), "", "assigned address");
  assertEquals(arp(request(other, other)), "", "announcement");
  assertEquals(arp(request("00000000", own)), "", "probe of the assigned address");
  assertEquals(arp(request("00000000", other)), "", "probe of a free address");
  assertEquals(arp(request("00000000", router)).length, 84, "probe of vuelo's address");
  assertEquals(arp(request(own, other)).length, 84, "anybody else");
  assertEquals(arp(request(own, "ffffffff")), "", "broadcast");
  assertEquals(arp(golden.arpReply), "", "a reply");
  assertEquals(arp(golden.arpRequest, serviceConfig({ ip4: undefined })), "", "no IPv4");
});

Deno.test("NDP: advertises as a Linux router did", () => {
  assertEquals(ndp(golden.neighbourSolicitation), golden.neighbourAdvertisement);
});

Deno.test("NDP: duplicate address detection is answered for vuelo's addresses only", () => {
  assertEquals(ndp(golden.dadSolicitation), "");
  const taken = serviceConfig({ ourLinkLocal: ip("fe80::5054:ff:fe12:3456") });
  const answer = ndp(golden.dadSolicitation, taken);
  // To all nodes, with Router and Override but not Solicited (RFC 4861, section 7.2.4).
  assertEquals(answer.slice(0, 12), "333300000001");
  assertEquals(answer.slice(76, 108), "ff020000000000000000000000000001");
  assertEquals(answer.slice(108, 112) + answer.slice(116, 124), "8800a0000000");
  assertEquals(icmpv6Ok(answer), true);
});

Deno.test("NDP: router advertisement, by RFC 4861, section 4.2 and RFC 8106", () => {
  const expected = "5254001234569a559a559a5586dd" +
    "6000000000983afffe800000000000000000000000000001" +
    "fe80000000000000505400fffe123456" +
    "8600" + "CCCC" + "40c02328" + "0000000000000000" +
    "01019a559a559a55" +
    "05010000000005dc" +
    "030440c0ffffffffffffffff0000000020010db8000000000000000000000000" +
    "19030000ffffffff20010db8000000000000000000000053" +
    "1f030000ffffffff076578616d706c65036f726700000000";
  const answer = ndp(golden.routerSolicitation);
  const length = (expected.length / 2 - 54).toString(16).padStart(4, "0");
  const checked = expected.replace("CCCC", answer.slice(112, 116))
    .replace("6000000000983a", `60000000${length}3a`);
  assertEquals(answer, checked);
  assertEquals(icmpv6Ok(answer), true);
});

Deno.test("NDP: unsolicited advertisement and switches", () => {
  const config = serviceConfig({
    dhcpDns: false,
    dhcpSearch: false,
    dhcpv6: false,
    mtu: 0,
  });
  const service = new Ndp(config, new GuestState(config));
  const sent = hexOf(reply, service.advertise(reply));
  assertEquals(sent.slice(0, 12), "333300000001");
  assertEquals(sent.length / 2, 54 + 16 + 8 + 32);
  assertEquals(sent.slice(118, 120), "00", "neither M nor O");
  assertEquals(icmpv6Ok(sent), true);
  assertEquals(ndp(golden.routerSolicitation, serviceConfig({ ra: false })), "");
  assertEquals(ndp(golden.neighbourSolicitation, serviceConfig({ ndp: false })), "");
  assertEquals(ndp(golden.neighbourSolicitation, serviceConfig({ ip6: undefined })), "");
  assertEquals(ndp(golden.listenerReport), "");
});

Deno.test("NDP: a solicitation with one byte changed or cut off is not answered", () => {
  for (const hex of [golden.neighbourSolicitation, golden.routerSolicitation]) {
    // From the payload length on; a change of the flow label or MAC is none.
    for (let at = 18; at < hex.length / 2; at++) {
      const frame = frameOf(hex);
      frame.setUint8(at, frame.getUint8(at) ^ 0x10);
      const config = serviceConfig();
      const service = new Ndp(config, new GuestState(config));
      assertEquals(service.respond(frame, hex.length / 2, reply), 0, `byte ${at}`);
      assertEquals(service.respond(frameOf(hex), at, reply), 0, `length ${at}`);
    }
  }
});

Deno.test("ICMP errors: as a Linux router's but for IP header fields of its own", () => {
  const config = serviceConfig();
  const guest = learnt(config, golden.datagram4);
  const { datagram4, datagram6 } = golden;
  const size4 = unreachable(config, guest, frameOf(datagram4), 45, 3, reply);
  const four = hexOf(reply, size4);
  assertEquals(four.slice(0, 28), golden.unreachable4.slice(0, 28));
  assertEquals(four.slice(52), golden.unreachable4.slice(52), "addresses and ICMP");
  const header = Array.from({ length: 20 }, (_, i) => reply.getUint8(14 + i));
  assertEquals(sumsUp(header), true);
  const size6 = unreachable(config, guest, frameOf(datagram6), 65, 4, reply);
  const six = hexOf(reply, size6);
  // Linux puts a flow label into its answer.
  assertEquals(six.slice(36), golden.unreachable6.slice(36));
});

Deno.test("ICMP errors: types, MTU, source and size", () => {
  const config = serviceConfig();
  const guest = new GuestState(config);
  const long4 = golden.datagram4.replace("001f8612", "05dc8612") + "00".repeat(1469);
  const long6 = golden.datagram6.replace("000b1140", "05b41140") + "00".repeat(1449);
  const [four, six] = [frameOf(long4), frameOf(long6)];
  const router = ip("198.51.100.7");
  assertEquals(
    timeExceeded(config, guest, four, four.byteLength, 0, reply, router),
    14 + 576,
  );
  assertEquals(hexOf(reply, 38, 26), "c6336407c0000202" + "0b00" + hexOf(reply, 38, 36));
  assertEquals(packetTooBig(config, guest, four, four.byteLength, 1400, reply), 590);
  assertEquals(hexOf(reply, 36, 34) + hexOf(reply, 42, 38), "030400000578");
  assertEquals(packetTooBig(config, guest, six, six.byteLength, 1400, reply), 1294);
  assertEquals(hexOf(reply, 56, 54) + hexOf(reply, 62, 58), "020000000578");
  assertEquals(icmpv6Ok(hexOf(reply, 1294)), true);
  timeExceeded(config, guest, six, six.byteLength, 0, reply, ip("2001:db8:9::1"));
  assertEquals(hexOf(reply, 38, 22), "20010db8000900000000000000000001");
  assertEquals(hexOf(reply, 56, 54), "0300");
});

Deno.test("ICMP errors: none about errors, groups, fragments and no host", () => {
  const config = serviceConfig();
  const guest = new GuestState(config);
  const silent: [what: string, base: string, at: number, bytes: number[]][] = [
    ["multicast", golden.datagram4, 30, [224]],
    ["broadcast", golden.datagram4, 30, [255, 255, 255, 255]],
    ["the network's broadcast", golden.datagram4, 33, [255]],
    ["group MAC", golden.datagram4, 0, [0xff]],
    ["fragment", golden.datagram4, 20, [0, 1]],
    ["no source", golden.datagram4, 26, [0]],
    ["IHL", golden.datagram4, 14, [0x4f]],
    ["ICMP error", golden.unreachable4, 0, []],
    ["multicast 6", golden.datagram6, 38, [0xff]],
    ["unspecified 6", golden.datagram6, 22, new Array(16).fill(0)],
    ["ICMPv6 error", golden.unreachable6, 0, []],
    ["fragment 6", golden.datagram6, 20, [44]],
    ["ARP", golden.arpRequest, 0, [0x52]],
  ];
  for (const [what, base, at, bytes] of silent) {
    const frame = frameOf(base);
    bytes.forEach((byte, i) => frame.setUint8(at + i, byte));
    if (what === "fragment 6") frame.setUint16(56, 8);
    const size = unreachable(config, guest, frame, frame.byteLength, 1, reply);
    assertEquals(size, 0, what);
  }
});

Deno.test("guest state: learns from IP and ARP, not from what is no host's", () => {
  const config = serviceConfig();
  const guest = new GuestState(config);
  assertEquals(formatMac(guest.mac), "ff:ff:ff:ff:ff:ff");
  assertEquals(formatAddress(guest.linkLocal6), "::");
  const feed = (hex: string) => guest.learn(frameOf(hex), hex.length / 2);
  feed(golden.routerSolicitation);
  assertEquals(formatMac(guest.mac), "52:54:00:12:34:56");
  assertEquals(formatAddress(guest.linkLocal6), "fe80::5054:ff:fe12:3456");
  assertEquals(formatAddress(guest.address6), "2001:db8::2");
  feed(golden.dadSolicitation);
  feed(request("00000000", "c0000263"));
  feed(request("e0000001", "c0000263"));
  feed(request("7f000001", "c0000263"));
  assertEquals(formatAddress(guest.address4), "192.0.2.2");
  assertEquals(formatAddress(guest.address6), "2001:db8::2");
  feed(request("c0000263", "c0000201"));
  feed(golden.unreachable6);
  assertEquals(formatAddress(guest.address4), "192.0.2.99");
  assertEquals(formatAddress(guest.address6), "2001:db8::1");
  assertEquals(formatMac(guest.mac), "9a:55:9a:55:9a:55");
  guest.reset();
  assertEquals(formatMac(guest.mac), "ff:ff:ff:ff:ff:ff");
  assertEquals(formatAddress(guest.address4), "192.0.2.2");
  assertEquals(formatAddress(guest.linkLocal6), "::");
});

Deno.test("any bytes after an Ethernet header throw nothing and fit the reply", () => {
  const config = serviceConfig();
  const guest = new GuestState(config);
  const services = [new Arp(config, guest), new Ndp(config, guest)];
  const type = fc.constantFrom([8, 0, 0x45], [8, 6, 0], [0x86, 0xdd, 0x60]);
  fc.assert(fc.property(type, fc.uint8Array({ maxLength: 1500 }), (head, rest) => {
    const frame = new DataView(
      Uint8Array.from([...new Array(12).fill(2), ...head, ...rest]).buffer,
    );
    for (let length = frame.byteLength; length >= 0; length -= 97) {
      guest.learn(frame, length);
      for (const service of services) service.respond(frame, length, reply);
      unreachable(config, guest, frame, length, 1, reply);
    }
  }));
});
