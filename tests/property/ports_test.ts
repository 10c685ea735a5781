import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { parseForwards } from "../../src/cli/ports.ts";
import { UsageError } from "../../src/errors.ts";

const EPHEMERAL = [32768, 60999] as const;

function parse(...specs: string[]) {
  const values = specs.map((text) => ({ text, written: text }));
  return parseForwards("tcp", values, EPHEMERAL);
}

/** Host port to guest port, for every port that the rules forward. */
function forwarded(specs: string[]): Map<number, number> {
  const ports = new Map<number, number>();
  for (const rule of parse(...specs)) {
    for (let port = rule.first; port <= rule.last; port++) {
      assert(!ports.has(port), `${port} twice`);
      ports.set(port, rule.guestFirst + port - rule.first);
    }
  }
  return ports;
}

const range = fc.tuple(fc.integer({ min: 1, max: 65535 }), fc.nat({ max: 300 }))
  .map(([first, more]) => [first, Math.min(65535, first + more)] as const);
const text = ([first, last]: readonly [number, number]) => `${first}-${last}`;

Deno.test("included ranges less excluded ones are what is forwarded", () => {
  fc.assert(fc.property(
    range,
    fc.array(range, { maxLength: 4 }),
    fc.integer({ min: -1000, max: 1000 }),
    ([first, last], excluded, shift) => {
      fc.pre(first + shift >= 1 && last + shift <= 65535);
      fc.pre(
        excluded.every(([a, b], i) =>
          excluded.slice(0, i).every(([c, d]) => b < c || d < a)
        ),
      );
      const expected = new Map<number, number>();
      for (let port = first; port <= last; port++) {
        if (excluded.some(([from, to]) => from <= port && port <= to)) continue;
        expected.set(port, port + shift);
      }
      fc.pre(expected.size > 0);
      const entry = `${text([first, last])}:${text([first + shift, last + shift])}`;
      const spec = [entry, ...excluded.map((range) => `~${text(range)}`)].join(",");
      assertEquals(forwarded([spec]), expected);
    },
  ));
});

Deno.test("two ranges are refused exactly if they share a port", () => {
  fc.assert(fc.property(range, range, fc.boolean(), (a, b, together) => {
    const shared = a[0] <= b[1] && b[0] <= a[1];
    const specs = together ? [`${text(a)},${text(b)}`] : [text(a), text(b)];
    let refused = false;
    try {
      parse(...specs);
    } catch (error) {
      assert(error instanceof UsageError);
      refused = true;
    }
    assertEquals(refused, shared);
  }));
});

Deno.test("any text is rules or a UsageError of one line", () => {
  const piece = fc.constantFrom(
    ..."0 1 22 65535 65536 - : , ~ / % * all none auto ::1 [ ] . 127.0.0.1 lo".split(" "),
  );
  const spec = fc.oneof(fc.string(), fc.array(piece).map((pieces) => pieces.join("")));
  fc.assert(
    fc.property(spec, (spec) => {
      try {
        for (const rule of parse(spec)) {
          assert(rule.first >= 1 && rule.first <= rule.last && rule.last <= 65535);
          const guestLast = rule.guestFirst + rule.last - rule.first;
          assert(rule.guestFirst >= 1 && guestLast <= 65535);
        }
      } catch (error) {
        assert(error instanceof UsageError, String(error));
        assert(!error.message.includes("\n"));
      }
    }),
    { numRuns: 2000 },
  );
});
