import { assert, assertEquals } from "@std/assert";
import {
  address,
  type Answer,
  captured,
  dhcpConfig,
  GUEST_MAC,
  options6,
  OUR_MAC,
  sealed,
  takeApart,
} from "../../tests/support/dhcp.ts";
import type { Config } from "../config.ts";
import { Dhcpv6 } from "./dhcpv6.ts";
import { GuestState } from "./guest_state.ts";

const GUEST = "fe80000000000000505400fffe123456";
const ALL_SERVERS = "ff020000000000000000000000010002";
const OURS = "fe800000000000000000000000000001";
const ASSIGNED = "20010db8000000000000000000000015";
const OTHER = "20010db8000000000000000000000016";
const DUID = "00030001" + OUR_MAC;
const CLIENT_ID = "0001000a" + "00030001" + GUEST_MAC;
const SERVER_ID = "0002000a" + DUID;
const OTHER_SERVER = "0002000a" + "00030001" + "aaaaaaaaaaaa";
const FOREVER = "ffffffffffffffff";
const DNS = "20010db8000000000000000000000053";
const SEARCH = "076578616d706c65036f726700" + "036c6162076578616d706c65036f726700";

const guest = new GuestState(dhcpConfig());

function respond(frame: Uint8Array, config = dhcpConfig()): Answer | undefined {
  const reply = new Uint8Array(2048).fill(0xa5);
  const padded = new Uint8Array(2048);
  padded.set(frame);
  const length = new Dhcpv6(config, guest).respond(
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

/** A message of the guest; all of it is in hexadecimal. */
function message(type: string, options: string, to = ALL_SERVERS, from = GUEST) {
  return sealed(Uint8Array.fromHex(
    "333300010002" + GUEST_MAC + "86dd" + "60000000" + "00001101" + from + to +
      "0222022300000000" + type + "abcdef" + options,
  ));
}

/** IA_NA with the IAID 00000007 and IA Address options. */
function iaNa(...addresses: string[]): string {
  return ia("0003", "00000007" + "0000000000000000", addresses);
}

function ia(code: string, head: string, addresses: string[] = []): string {
  const body = head + addresses.map((a) => "00050018" + a + "0000000000000000").join("");
  return code + (body.length / 2).toString(16).padStart(4, "0") + body;
}

/** The options of the reply, by code; the last of each. */
function told(frame: Uint8Array, config?: Config): Map<number, string> {
  return new Map(options6(answer(frame, config).message.slice(4)));
}

/** Status Code at the top level: undefined without a reply. */
function status(frame: Uint8Array): string | undefined {
  const reply = respond(frame);
  return reply && new Map(options6(reply.message.slice(4))).get(13);
}

const LEASE = "00000007" + FOREVER + "00050018" + ASSIGNED + FOREVER;

Deno.test("dhclient's Solicit is answered with an Advertise of our address", () => {
  const reply = answer(captured("dhclient6"));
  assertEquals(reply.destinationMac, GUEST_MAC);
  assertEquals(reply.sourceMac, OUR_MAC);
  assertEquals([reply.source, reply.destination], [OURS, GUEST]);
  assertEquals(reply.ports, [547, 546]);
  assertEquals(reply.message.slice(0, 4).toHex(), "02" + "97996d");
  assertEquals(options6(reply.message.slice(4)), [
    [1, "000100013296d545525400123456"],
    [2, DUID],
    [7, "ff"],
    [3, "00123456" + FOREVER + "00050018" + ASSIGNED + FOREVER],
    [23, DNS],
    [24, SEARCH],
    // dhclient lists 39 in its Option Request; there is no wish to override
    [39, "04" + "056775657374076578616d706c65036f726700"],
  ]);
});

Deno.test("systemd-networkd gets all at once by rapid commit, but no prefix", () => {
  guest.address6.set(address("2001:db8::99"));
  const { message } = answer(captured("networkd6"));
  assertEquals(message.slice(0, 4).toHex(), "07" + "512501");
  const iaid = "5f6daaa8";
  assertEquals(options6(message.slice(4)), [
    [1, "00020000ab110033bdebf95e192c"],
    [2, DUID],
    [14, ""],
    [3, iaid + FOREVER + "00050018" + ASSIGNED + FOREVER],
    [25, iaid + "0000000000000000" + "000d0002" + "0006"],
    [23, DNS],
    // its Option Request lacks 24; N and O, as its S bit asks for an update
    [39, "06" + "056775657374076578616d706c65036f726700"],
  ]);
  assertEquals(guest.address6, address("2001:db8::15"));
});

Deno.test("dhcpcd's Solicit and dhclient's Information-request are understood", () => {
  const dhcpcd = answer(captured("dhcpcd6")).message;
  assertEquals(dhcpcd[0], 7);
  assert(options6(dhcpcd.slice(4)).some(([code]) => code === 3));
  const info = answer(captured("dhclient6_info")).message;
  assertEquals(info[0], 7);
  assertEquals(options6(info.slice(4)), [
    [1, "00030001" + GUEST_MAC],
    [2, DUID],
    [23, DNS],
    [24, SEARCH],
    [39, "04" + "056775657374076578616d706c65036f726700"],
  ]);
});

Deno.test("Request: our address, or NotOnLink for one of elsewhere", () => {
  const ids = CLIENT_ID + SERVER_ID;
  assertEquals(told(message("03", ids + iaNa(ASSIGNED))).get(3), LEASE);
  assertEquals(told(message("03", ids + iaNa())).get(3), LEASE);
  const foreign = "00000007" + "0000000000000000" + "000d0002" + "0004";
  assertEquals(told(message("03", ids + iaNa(OTHER))).get(3), foreign);
});

Deno.test("Renew and Rebind: ours for ever, others with lifetime 0", () => {
  const stale = "00050018" + OTHER + "0000000000000000";
  assertEquals(told(message("05", CLIENT_ID + SERVER_ID + iaNa(ASSIGNED))).get(3), LEASE);
  const rebind = told(message("06", CLIENT_ID + iaNa(OTHER)));
  assertEquals(rebind.get(3), LEASE + stale);
});

Deno.test("a second IA_NA, IA_TA and IA_PD get a status instead", () => {
  const second = ia("0003", "00000008" + "0000000000000000");
  const temporary = ia("0004", "00000009");
  const prefix = ia("0019", "0000000a" + "0000000000000000");
  const request = CLIENT_ID + SERVER_ID + iaNa() + second + temporary + prefix;
  assertEquals(options6(answer(message("03", request)).message.slice(4)).slice(2, 6), [
    [3, LEASE],
    [3, "00000008" + "0000000000000000" + "000d0002" + "0002"],
    [4, "00000009" + "000d0002" + "0002"],
    [25, "0000000a" + "0000000000000000" + "000d0002" + "0006"],
  ]);
  const ip6 = { ...dhcpConfig().ip6!, address: address("::") };
  const without = told(message("01", CLIENT_ID + iaNa()), dhcpConfig({ ip6 }));
  assertEquals(without.get(3), "00000007" + "0000000000000000" + "000d0002" + "0002");
});

Deno.test("Confirm, Release and Decline", () => {
  assertEquals(status(message("04", CLIENT_ID + iaNa(ASSIGNED))), "0000");
  assertEquals(status(message("04", CLIENT_ID + iaNa(OTHER))), "0004");
  assertEquals(status(message("04", CLIENT_ID + iaNa())), undefined);
  for (const type of ["08", "09"]) {
    const release = told(message(type, CLIENT_ID + SERVER_ID + iaNa(ASSIGNED)));
    assertEquals([release.get(13), release.has(3)], ["0000", false]);
    const unknown = told(message(type, CLIENT_ID + SERVER_ID + iaNa(OTHER)));
    assertEquals(unknown.get(13), "0000");
    assert(unknown.get(3)?.endsWith("000d0002" + "0003"));
  }
});

Deno.test("messages that RFC 8415, section 16, tells to discard", () => {
  const silent = (type: string, options: string, to?: string, from?: string) =>
    assertEquals(respond(message(type, options, to, from)), undefined, type + options);
  for (const type of ["01", "03", "04", "05", "06", "08", "09"]) {
    silent(type, iaNa(ASSIGNED));
    silent(type, SERVER_ID + iaNa(ASSIGNED));
  }
  for (const type of ["01", "04", "06"]) {
    silent(type, CLIENT_ID + SERVER_ID + iaNa(ASSIGNED));
    silent(type, CLIENT_ID + iaNa(ASSIGNED), OURS);
  }
  for (const type of ["03", "05", "08", "09", "0b"]) {
    silent(type, CLIENT_ID + OTHER_SERVER);
  }
  for (const type of ["03", "05", "08", "09"]) silent(type, CLIENT_ID + iaNa(ASSIGNED));
  silent("0b", CLIENT_ID + iaNa());
  silent("0b", CLIENT_ID, OURS);
  for (const type of ["00", "02", "07", "0a", "0c", "0d", "ff"]) {
    silent(type, CLIENT_ID + SERVER_ID);
  }
  silent("01", "00010002" + "0003" + iaNa());
  silent("01", CLIENT_ID + iaNa(), ALL_SERVERS, ASSIGNED);
  silent("01", CLIENT_ID + iaNa(), OTHER);
  assert(respond(message("0b", "")), "a client id is not needed here");
});

Deno.test("a unicast Request is sent back to multicast (RFC 8415, section 18.4)", () => {
  const request = told(message("03", CLIENT_ID + SERVER_ID + iaNa(), OURS));
  assertEquals([...request.keys()], [1, 2, 13]);
  assertEquals(request.get(13), "0005");
});

Deno.test("options that are asked for, and those that the configuration lacks", () => {
  const request = (options: string) => message("0b", CLIENT_ID + options);
  assertEquals([...told(request("00060002" + "0017")).keys()], [1, 2, 23]);
  assertEquals([...told(request("00060002" + "0018")).keys()], [1, 2, 24]);
  assertEquals([...told(request("00060002" + "0027")).keys()], [1, 2, 39]);
  assertEquals([...told(request("")).keys()], [1, 2, 23, 24]);
  const none = dhcpConfig({ dhcpDns: false, dhcpSearch: false, fqdn: undefined });
  const asked = "00060006" + "001700180027";
  assertEquals([...told(request(asked), none).keys()], [1, 2]);
  assertEquals(respond(request(""), dhcpConfig({ dhcpv6: false })), undefined);
  assertEquals(respond(request(""), dhcpConfig({ ip6: undefined })), undefined);
});

Deno.test("damaged frames are ignored, many options do not overflow the reply", () => {
  const whole = captured("networkd6");
  for (let length = 0; length < whole.length; length++) {
    assertEquals(respond(whole.subarray(0, length)), undefined, `${length} bytes`);
  }
  for (let at = 22; at < whole.length; at++) {
    const frame = whole.slice();
    frame[at] ^= 0x10;
    assertEquals(respond(frame), undefined, `byte ${at}: checksum`);
  }
  const unchecked = whole.slice();
  unchecked.fill(0, 60, 62);
  assertEquals(respond(unchecked), undefined, "no checksum");
  assertEquals(
    respond(message("01", CLIENT_ID + "00030008" + "00".repeat(8))),
    undefined,
  );
  const many = Array.from({ length: 80 }, (_, i) => ia("0004", `000000${i + 16}`));
  const reply = answer(message("01", CLIENT_ID + iaNa() + many.join("")));
  assert(reply.message.length <= 1280 - 48);
});
