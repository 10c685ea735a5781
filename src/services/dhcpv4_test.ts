import { assert, assertEquals } from "@std/assert";
import {
  address,
  type Answer,
  captured,
  dhcpConfig,
  GUEST_MAC,
  options4,
  OUR_MAC,
  sealed,
  takeApart,
} from "../../tests/support/dhcp.ts";
import type { Config } from "../config.ts";
import { Dhcpv4 } from "./dhcpv4.ts";
import { GuestState } from "./guest_state.ts";

const ASSIGNED = "0a00020f";
const SERVER = "0a000202";
const BROADCAST = "ffffffff";

function respond(frame: Uint8Array, config = dhcpConfig()): Answer | undefined {
  const reply = new Uint8Array(2048).fill(0xa5);
  const server = new Dhcpv4(config, new GuestState(config));
  const padded = new Uint8Array(2048);
  padded.set(frame);
  const length = server.respond(
    new DataView(padded.buffer),
    frame.length,
    new DataView(reply.buffer),
  );
  return length === 0 ? undefined : takeApart(reply.slice(0, length));
}

function answer(frame: Uint8Array, config?: Config): Answer {
  const reply = respond(frame, config);
  assert(reply !== undefined, "no reply");
  return reply;
}

interface Fields {
  ciaddr?: string;
  flags?: string;
  giaddr?: string;
  sname?: string;
  file?: string;
  to?: string;
}

/** A request of the guest with `options` in hexadecimal, the End option to be added. */
function request(options: string, fields: Fields = {}): Uint8Array {
  const quad = (text?: string) => text ?? "00000000";
  return sealed(Uint8Array.fromHex(
    "ffffffffffff" + GUEST_MAC + "0800" + "45000000" + "00000000" + "40110000" +
      quad(fields.ciaddr) + (fields.to ?? BROADCAST) + "0044004300000000" +
      "01010600" + "01020304" + "0000" + (fields.flags ?? "0000") +
      quad(fields.ciaddr) + "00000000" + "00000000" + quad(fields.giaddr) +
      GUEST_MAC.padEnd(32, "0") + (fields.sname ?? "").padEnd(128, "0") +
      (fields.file ?? "").padEnd(256, "0") + "63825363" + options + "ff",
  ));
}

function codes(message: Uint8Array): number[] {
  return options4(message).map(([code]) => code);
}

function field(message: Uint8Array, at: number): string {
  return message.slice(at, at + 4).toHex();
}

Deno.test("udhcpc's DISCOVER is offered the address, in the order it asked for", () => {
  const reply = answer(captured("udhcpc_req"));
  assertEquals(reply.destinationMac, GUEST_MAC);
  assertEquals(reply.sourceMac, OUR_MAC);
  assertEquals([reply.source, reply.destination], [SERVER, ASSIGNED]);
  assertEquals(reply.ports, [67, 68]);
  assertEquals(reply.message[0], 2);
  assertEquals(field(reply.message, 4), "356c3709");
  assertEquals(field(reply.message, 16), ASSIGNED);
  assertEquals(reply.message.slice(28, 34).toHex(), GUEST_MAC);
  assertEquals(options4(reply.message), [
    [53, "02"],
    [54, SERVER],
    [51, "ffffffff"],
    [61, "01" + GUEST_MAC],
    [1, "ffffff00"],
    [3, SERVER],
    [6, "0a000203" + "c0000235"],
    [12, "6775657374"],
    [26, "05dc"],
    // example.org; lab and a pointer to the first byte
    [119, "076578616d706c65036f726700" + "036c6162c000"],
  ]);
});

Deno.test("what dhclient, udhcpc and systemd-networkd send is understood", () => {
  const dhclient = answer(captured("dhclient"));
  assertEquals(codes(dhclient.message), [53, 54, 51, 1, 3, 6, 119, 12, 26]);
  const udhcpc = answer(captured("udhcpc"));
  assertEquals(codes(udhcpc.message), [53, 54, 51, 61, 1, 3, 6, 12, 26]);
  const networkd = answer(captured("networkd4"));
  assertEquals(options4(networkd.message).slice(0, 4), [
    [53, "02"],
    [54, SERVER],
    [51, "ffffffff"],
    [61, "ff5f6daaa800020000ab110033bdebf95e192c"],
  ]);
  assertEquals(codes(networkd.message).slice(4), [1, 3, 6, 12, 26]);
});

Deno.test("rapid commit: DISCOVER with option 80 is acknowledged (RFC 4039)", () => {
  const config = dhcpConfig();
  const guest = new GuestState(config);
  guest.address4.set(address("10.0.2.99"));
  const frame = request("350101" + "5000" + "370101");
  const reply = new DataView(new ArrayBuffer(2048));
  const server = new Dhcpv4(config, guest);
  const length = server.respond(new DataView(frame.buffer), frame.length, reply);
  const { message } = takeApart(new Uint8Array(reply.buffer, 0, length));
  assertEquals(options4(message).slice(0, 4), [
    [53, "05"],
    [54, SERVER],
    [51, "ffffffff"],
    [80, ""],
  ]);
  assertEquals(guest.address4, address("10.0.2.15"));
});

Deno.test("REQUEST: each state of RFC 2131, section 4.3.2", () => {
  const type = (frame: Uint8Array) => {
    const reply = respond(frame);
    return reply && options4(reply.message)[0][1];
  };
  assertEquals(type(request("350103" + "3604" + SERVER + "3204" + ASSIGNED)), "05");
  assertEquals(type(request("350103" + "3604" + SERVER + "32040a000210")), "06");
  assertEquals(type(request("350103" + "36040a0002fe" + "3204" + ASSIGNED)), undefined);
  assertEquals(type(request("350103" + "3204" + ASSIGNED)), "05");
  assertEquals(type(request("350103" + "3204c0a80105")), "06");
  assertEquals(type(request("350103", { ciaddr: ASSIGNED, to: SERVER })), "05");
  assertEquals(type(request("350103", { ciaddr: "c0a80105" })), "06");
  assertEquals(type(request("350103")), undefined);
  assertEquals(type(request("350103" + "32030a0002")), undefined);
});

Deno.test("NAK is broadcast and carries no address, lease or setting", () => {
  const frame = request("350103" + "3204c0a80105" + "3d0701" + GUEST_MAC);
  const { message, destination, destinationMac } = answer(frame);
  assertEquals([destination, destinationMac], [BROADCAST, "ffffffffffff"]);
  assertEquals(field(message, 16), "00000000");
  assertEquals(codes(message), [53, 54, 61, 56]);
});

Deno.test("destination: ciaddr, then the broadcast flag, then the new address", () => {
  const to = (fields: Fields, options: string) => {
    const { destination, destinationMac } = answer(request(options, fields));
    return [destination, destinationMac];
  };
  const renew = { ciaddr: ASSIGNED, flags: "8000" };
  assertEquals(to(renew, "350103"), [ASSIGNED, GUEST_MAC]);
  assertEquals(to({ flags: "8000" }, "350101"), [BROADCAST, "ffffffffffff"]);
  assertEquals(to({}, "350101"), [ASSIGNED, GUEST_MAC]);
});

Deno.test("INFORM is told settings, neither address nor lease", () => {
  const { message, destination } = answer(request("350108", { ciaddr: "0a000263" }));
  assertEquals(destination, "0a000263");
  assertEquals(field(message, 12), "0a000263");
  assertEquals(field(message, 16), "00000000");
  assertEquals(codes(message), [53, 54, 1, 3, 6, 26, 12, 119]);
});

Deno.test("RELEASE, DECLINE, server's messages and relayed ones are not answered", () => {
  for (const type of ["00", "02", "04", "05", "06", "07", "09", "ff"]) {
    assertEquals(respond(request("3501" + type)), undefined, type);
  }
  assertEquals(respond(request("350101", { giaddr: "0a000207" })), undefined);
  assertEquals(respond(request("350101", { to: "08080808" })), undefined);
});

Deno.test("BOOTP request without option 53 gets a BOOTP reply of 300 bytes", () => {
  const { message } = answer(request(""));
  assertEquals(message.length, 300);
  assertEquals(field(message, 16), ASSIGNED);
  assertEquals(codes(message).slice(0, 3), [1, 3, 6]);
  assert(!codes(message).some((code) => code === 51 || code === 53 || code === 54));
});

Deno.test("classless routes lead to a gateway outside of the subnet (RFC 3442)", () => {
  const ip4 = { ...dhcpConfig().ip4!, prefixLength: 32 };
  const wide = { ...dhcpConfig().ip4!, gateway: address("192.0.2.1") };
  const options = (config: Config) =>
    new Map(options4(answer(request("350101" + "370479030106"), config).message));
  const host = options(dhcpConfig({ ip4 }));
  assertEquals(host.get(1), "ffffffff");
  assertEquals(host.get(3), SERVER);
  assertEquals(host.get(121), "20" + SERVER + "00000000" + "00" + SERVER);
  const outside = options(dhcpConfig({ ip4: wide }));
  assertEquals(outside.get(121), "20c0000201" + "00000000" + "00c0000201");
  assertEquals(options(dhcpConfig()).has(121), false);
});

Deno.test("client FQDN: no update, client's encoding, client's wish overridden", () => {
  const fqdn = (option: string, config?: Config) =>
    new Map(options4(answer(request("350101" + option), config).message)).get(81);
  const wire = "056775657374076578616d706c65036f726700";
  assertEquals(fqdn("5103050000"), "0effff" + wire);
  assertEquals(fqdn("5103040000"), "0cffff" + wire);
  assertEquals(fqdn("370151"), "0cffff" + wire);
  const ascii = new TextEncoder().encode("guest.example.org").toHex();
  assertEquals(fqdn("5103010000"), "0affff" + ascii);
  assertEquals(fqdn(""), undefined);
  assertEquals(fqdn("5103050000", dhcpConfig({ fqdn: undefined })), undefined);
});

Deno.test("options in file and sname count (option 52), parts are joined", () => {
  const file = request("350101" + "340101", { file: "370106" + "ff" });
  assertEquals(codes(answer(file).message), [53, 54, 51, 1, 6, 3, 26]);
  const both = request("340103", { file: "350101ff", sname: "370106ff" });
  assertEquals(codes(answer(both).message), [53, 54, 51, 1, 6, 3, 26]);
  const parts = request("350101" + "370106" + "370103");
  assertEquals(codes(answer(parts).message), [53, 54, 51, 1, 6, 3, 26]);
  assertEquals(respond(request("350101" + "340101", { file: "37ff" })), undefined);
});

Deno.test("option 57 and the MTU bound the reply", () => {
  const search = Array.from({ length: 24 }, (_, i) => `${`n${i}`.repeat(12)}.test`);
  const config = dhcpConfig({ search, dhcpDns: true });
  const reply = (size: string) => answer(request(`350101${size}370177`), config).message;
  const has = (size: string) => codes(reply(size)).includes(119);
  assertEquals([has(""), has("39020100"), has("390205dc")], [false, false, true]);
  assert(reply("390205dc").length <= 1500 - 28);
  assert(reply("").length <= 576 - 28);
  const parts = options4(reply("390205dc")).filter(([code]) => code === 119);
  assert(parts.length > 1, "RFC 3396: more than 255 bytes take several options");
});

Deno.test("what the configuration leaves out is not told", () => {
  const config = dhcpConfig({
    mtu: 0,
    dhcpDns: false,
    dhcpSearch: false,
    hostname: undefined,
    ip4: { ...dhcpConfig().ip4!, gateway: address("0.0.0.0") },
  });
  assertEquals(codes(answer(request("350101"), config).message), [53, 54, 51, 1]);
  assertEquals(respond(request("350101"), dhcpConfig({ dhcp: false })), undefined);
  assertEquals(respond(request("350101"), dhcpConfig({ ip4: undefined })), undefined);
});

Deno.test("damaged frames are ignored", () => {
  const whole = captured("udhcpc");
  for (let length = 0; length < 14 + 328; length++) {
    assertEquals(respond(whole.subarray(0, length)), undefined, `${length} bytes`);
  }
  const damage = (change: (frame: Uint8Array) => void, seal = true) => {
    const frame = whole.slice();
    change(frame);
    return respond(seal ? sealed(frame) : frame);
  };
  assertEquals(damage((frame) => frame[300] ^= 1, false), undefined, "UDP checksum");
  assertEquals(damage((frame) => frame[22] ^= 1, false), undefined, "IP checksum");
  assertEquals(damage((frame) => frame[42] = 2), undefined, "op");
  assertEquals(damage((frame) => frame[43] = 6), undefined, "htype");
  assertEquals(damage((frame) => frame[44] = 16), undefined, "hlen");
  assertEquals(damage((frame) => frame[20] = 0x20), undefined, "fragment");
  assertEquals(damage((frame) => frame[283] = 0xff), undefined, "option length");
  assert(damage((frame) => frame.fill(0, 40, 42), false), "no UDP checksum");
});
