/** A guest migrates between two hosts that run vuelo: every scenario. */
import type { HypervisorOptions } from "../support/migrate_backend.ts";
import { migrations } from "../support/migrate_suite.ts";

const VUELO: HypervisorOptions = { kind: "vuelo", helper: "none" };

migrations("vuelo to vuelo", { from: VUELO, to: VUELO });
migrations("vuelo to vuelo, packed rings", {
  from: VUELO,
  to: VUELO,
  device: "packed=on",
}, ["watched", "bulk-both-ipv4", "200", "udp", "ping", "cancel-late", "ten-times"]);
const QUEUES: HypervisorOptions = { ...VUELO, args: ["--queues", "2"] };
migrations("vuelo to vuelo, two queue pairs", { from: QUEUES, to: QUEUES, queues: 2 }, [
  "watched",
  "bulk-both-ipv4",
  "bulk-both-ipv6",
  "200",
  "udp",
  "ping",
  "attempts",
  "unread-by-guest",
  "ten-times",
  "cancel-middle",
  "cancel-late",
  "undone",
]);
migrations("vuelo to vuelo, MTU 1500", { from: VUELO, to: VUELO, mtu: 1500 }, [
  "watched",
  "bulk-both-ipv4",
  "bulk-both-ipv6",
  "unread-by-peer",
  "unread-by-guest",
  "d5-segment-size",
]);
