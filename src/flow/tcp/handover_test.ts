import { assertEquals } from "@std/assert";
import { Epoll } from "../../../ffi/event.ts";
import { flowConfig } from "../../../tests/support/flow_config.ts";
import { GuestMemory } from "../../virtio/guest_memory.ts";
import { DataPath } from "../datapath.ts";
import { sideState } from "./handover.ts";
import { TcpShared } from "./shared.ts";

/** Kept by flow, but not a flow's to take along: lists, and what only migrations set. */
const STAYS = ["frozen", "held", "ready", "inReady", "polled", "inPolled"];

Deno.test("everything that is kept by flow goes along to another thread", () => {
  const epoll = new Epoll();
  const capacity = 37; // of no other array
  const path = new DataPath(flowConfig(), new GuestMemory(2 ** 30), epoll, capacity);
  const shared = new TcpShared(path);
  const moved: unknown[] = sideState(shared);
  const left = Object.entries(shared).filter(([, value]) =>
    ArrayBuffer.isView(value) && "length" in value && value.length === capacity &&
    !moved.includes(value)
  ).map(([name]) => name);
  assertEquals(left.sort(), STAYS.toSorted());
  epoll.close();
});
