import { assertEquals } from "@std/assert";
import { Errno, errno } from "../../ffi/errno.ts";
import {
  AF_INET,
  closeFd,
  connectSocket,
  IPPROTO_UDP,
  lastAddress,
  localAddress,
  openSocket,
  SOCK_DGRAM,
} from "../../ffi/socket.ts";
import { ip, IP4 } from "../../tests/support/flow_config.ts";
import type { FamilyConfig } from "../config.ts";
import { formatAddress } from "../wire/address.ts";
import { bindOutbound } from "./outbound.ts";

const LOOPBACK = ip("127.0.0.1");
const PEER = ip("198.51.100.7");

/** The socket's own address once it is bound and connected, or the error number. */
function bound(family: FamilyConfig, peer: Uint8Array): string | number {
  const fd = openSocket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
  try {
    if (!bindOutbound(fd, peer, family)) return errno();
    if (peer === LOOPBACK) connectSocket(fd, peer, 0, 9);
    localAddress(fd);
    return formatAddress(lastAddress.bytes);
  } finally {
    closeFd(fd);
  }
}

Deno.test("bindOutbound() binds what leaves the host, and nothing else", () => {
  const from = { ...IP4, outbound: ip("127.0.0.9") };
  assertEquals(bound(IP4, PEER), "0.0.0.0");
  assertEquals(bound(from, PEER), "127.0.0.9");
  assertEquals(bound(from, LOOPBACK), "127.0.0.1");
});

Deno.test("bindOutbound() fails if the address or interface is not there", () => {
  const gone = { ...IP4, outbound: ip("203.0.113.77") };
  const noDevice = { ...IP4, outboundInterface: "no-such-if0" };
  assertEquals(bound(gone, PEER), Errno.EADDRNOTAVAIL);
  assertEquals(bound(noDevice, PEER), Errno.ENODEV);
  assertEquals(bound(gone, LOOPBACK), "127.0.0.1");
  assertEquals(bound(noDevice, LOOPBACK), "127.0.0.1");
});
