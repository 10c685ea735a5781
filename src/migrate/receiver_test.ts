import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { concat } from "@std/bytes";
import { Errno } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import { setNonBlocking } from "../../ffi/memory.ts";
import { createPipe, writeSome } from "../../ffi/pipe.ts";
import { LOAD, SideOfMove } from "../../tests/support/side_of_move.ts";
import { sampleState, tcpSample } from "../../tests/support/state_samples.ts";
import { encodeVuelo } from "../wire/state/decode.ts";
import { HEADER_SIZE } from "../wire/state/header.ts";
import { StateReceiver } from "./receiver.ts";
import { AGAIN } from "./sender.ts";

const MOST = 1 << 17;

Deno.test("a stream is read as far as its bound, and no further", () => {
  const [reading, writing] = createPipe();
  setNonBlocking(reading);
  setNonBlocking(writing);
  const receiver = new StateReceiver(reading, MOST);
  const piece = new Uint8Array(4096);
  let outcome = AGAIN;
  for (let sent = 0; outcome === AGAIN && sent < 4 * MOST;) {
    sent += Math.max(0, writeSome(writing, piece));
    outcome = receiver.pull();
  }
  assertEquals(outcome, Errno.EFBIG);
  assertEquals(receiver.received, MOST);
  close(reading);
  close(writing);
});

Deno.test("a state that is to be longer than the bound is refused by its header", () => {
  const state = sampleState();
  const receiveQueue = new Uint8Array(2 * MOST);
  const tcp = state.tcp.map((record, i) =>
    i === 0 ? tcpSample(record.flow, { receiveQueue }) : record
  );
  const stream = concat(encodeVuelo({ ...state, tcp }));
  using target = new SideOfMove(MOST);
  const fd = target.begin(LOAD);
  const start = HEADER_SIZE + 4096;
  assertEquals(writeSome(fd, stream.subarray(0, start)), start);
  target.run();
  assertEquals(target.migration.check(), Errno.EFBIG);
  assert(stream.length > MOST);
  assertStringIncludes(target.log.lines.join(), `expected ${MOST} at most (--max-state)`);
});
