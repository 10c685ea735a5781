import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { Dhcpv4 } from "../../src/services/dhcpv4.ts";
import { Dhcpv6 } from "../../src/services/dhcpv6.ts";
import { GuestState } from "../../src/services/guest_state.ts";
import { CAPTURED_DHCP, dhcpConfig, sealed, takeApart } from "../support/dhcp.ts";

const config = dhcpConfig();
const guest = new GuestState(config);
const servers = [new Dhcpv4(config, guest), new Dhcpv6(config, guest)];

/** Hands a frame to both servers; how many answered, each within the buffer. */
function answers(bytes: Uint8Array): number {
  const frame = bytes.slice();
  let count = 0;
  for (const server of servers) {
    const reply = new Uint8Array(2048);
    const length = server.respond(
      new DataView(frame.buffer),
      frame.length,
      new DataView(reply.buffer),
    );
    assert(length >= 0 && length <= 1514);
    if (length === 0) continue;
    takeApart(reply.slice(0, length));
    count++;
  }
  assertEquals(frame, bytes, "the request is only read");
  return count;
}

const frame = fc.constantFrom(...CAPTURED_DHCP);
const change = fc.tuple(fc.nat(), fc.nat({ max: 255 }));

function changed(bytes: Uint8Array, changes: [number, number][], from = 0): Uint8Array {
  const out = bytes.slice();
  for (const [at, value] of changes) out[from + at % (out.length - from)] = value;
  return out;
}

Deno.test("captured requests are each answered by one server", () => {
  for (const bytes of CAPTURED_DHCP) assertEquals(answers(bytes), 1);
});

Deno.test("any bytes leave the DHCP servers unmoved", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 1600 }), (bytes) => {
    assertEquals(answers(bytes), 0);
  }));
});

Deno.test("changed bytes and cuts of captured requests do no harm", () => {
  fc.assert(
    fc.property(
      frame,
      fc.array(change, { maxLength: 8 }),
      fc.nat(),
      (bytes, changes, cut) => {
        answers(changed(bytes, changes));
        answers(bytes.subarray(0, cut % bytes.length));
      },
    ),
    { numRuns: 500 },
  );
});

Deno.test("changed messages under right checksums do no harm", () => {
  fc.assert(
    fc.property(
      frame,
      fc.array(change, { minLength: 1, maxLength: 8 }),
      (bytes, list) => {
        const message = bytes[12] === 0x86 ? 62 : 42;
        answers(sealed(changed(bytes, list, message)));
        // The options of DHCP are few bytes among many.
        if (message === 42) answers(sealed(changed(bytes, list, message + 240)));
      },
    ),
    { numRuns: 2000 },
  );
});

Deno.test("any options under right headers do no harm", () => {
  fc.assert(
    fc.property(frame, fc.uint8Array({ maxLength: 1200 }), (bytes, options) => {
      const start = bytes[12] === 0x86 ? 66 : 282;
      const whole = new Uint8Array(start + options.length);
      whole.set(bytes.subarray(0, start));
      whole.set(options, start);
      answers(sealed(whole));
    }),
    { numRuns: 1000 },
  );
});
