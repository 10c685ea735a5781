import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { type Dump, readDump } from "../../src/host/netlink.ts";
import { parseResolvConf } from "../../src/host/resolv_conf.ts";
import golden from "../golden/netlink.json" with { type: "json" };

const CAPTURED = [...golden.address, ...golden.route4, ...golden.route6]
  .map((hex) => Uint8Array.fromHex(hex));

function read(datagram: Uint8Array): Dump {
  const dump: Dump = { links: [], addresses: [], routes: [] };
  readDump(datagram, dump);
  for (const { address } of dump.addresses) assertEquals(address.length, 16);
  for (const route of dump.routes) {
    assert(route.destination === undefined || route.destination.length === 16);
    assert(route.gateway === undefined || route.gateway.length === 16);
  }
  return dump;
}

Deno.test("any bytes are read without an exception", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => void read(bytes)));
});

Deno.test("captured dumps, cut anywhere, yield no more entries than whole ones", () => {
  fc.assert(fc.property(fc.constantFrom(...CAPTURED), fc.nat(), (bytes, cut) => {
    const whole = read(bytes);
    const part = read(bytes.subarray(0, cut % (bytes.length + 1)));
    assert(part.addresses.length <= whole.addresses.length);
    assert(part.routes.length <= whole.routes.length);
    assertEquals(part.addresses, whole.addresses.slice(0, part.addresses.length));
  }));
});

Deno.test("captured dumps with changed bytes are read without an exception", () => {
  const change = fc.tuple(fc.nat(), fc.nat({ max: 255 }));
  fc.assert(
    fc.property(
      fc.constantFrom(...CAPTURED),
      fc.array(change, { maxLength: 8 }),
      (bytes, changes) => {
        const broken = bytes.slice();
        for (const [at, value] of changes) broken[at % broken.length] = value;
        read(broken);
      },
    ),
    { numRuns: 1000 },
  );
});

Deno.test("any text is a resolv.conf within its bounds", () => {
  const line = fc.oneof(
    fc.string(),
    fc.string().map((text) => `nameserver ${text}`),
    fc.array(fc.domain()).map((names) => `search ${names.join(" ")}`),
    fc.ipV6().map((address) => `nameserver ${address}`),
  );
  fc.assert(fc.property(fc.array(line), (lines) => {
    const { nameservers, search } = parseResolvConf(lines.join("\n"));
    assert(nameservers.length <= 3);
    assert(search.length <= 32);
  }));
});
