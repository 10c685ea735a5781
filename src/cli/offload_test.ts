import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { UsageError } from "../errors.ts";
import { OFFLOAD_NAMES, OFFLOADS } from "../virtio/offloads.ts";
import { readOffloads } from "./offload.ts";
import { OPTIONS } from "./options.ts";

function read(text: string): string {
  const names = readOffloads({ text, written: `--offload '${text}'` });
  return [...names].join(" ");
}

const ALL = OFFLOAD_NAMES.join(" ");
const GUEST_USO = "guest-uso4 guest-uso6";
const GUEST = `guest-csum guest-tso4 guest-tso6 ${GUEST_USO} guest-ecn`;

Deno.test("all, none and names", () => {
  assertEquals(read("all"), ALL);
  assertEquals(read("none"), "");
  assertEquals(read("csum"), "csum");
  assertEquals(read("csum,mrg-rxbuf"), "csum mrg-rxbuf");
  assertEquals(read("none, guest-csum"), "guest-csum");
});

Deno.test("a list that begins with a minus takes away from all", () => {
  assertEquals(read("-mrg-rxbuf"), `csum tso4 tso6 uso ecn ${GUEST}`);
  assertEquals(read("-tso4"), `csum tso6 uso ecn ${GUEST} mrg-rxbuf`);
  assertEquals(read("-all,csum"), "csum");
});

Deno.test("what is taken away takes along what needs it", () => {
  assertEquals(read("-csum"), `${GUEST} mrg-rxbuf`);
  assertEquals(read("-guest-csum"), "csum tso4 tso6 uso ecn mrg-rxbuf");
  assertEquals(
    read("-tso,-guest-tso"),
    `csum uso guest-csum ${GUEST_USO} mrg-rxbuf`,
  );
  assertEquals(read("-tso,-guest-tso,-uso,-guest-uso"), "csum guest-csum mrg-rxbuf");
  assertEquals(read("all,-csum,-guest-csum"), "mrg-rxbuf");
});

Deno.test("what is added brings what it needs", () => {
  assertEquals(read("tso4"), "csum tso4");
  assertEquals(read("tso"), "csum tso4 tso6");
  assertEquals(read("ecn"), "csum tso4 tso6 ecn");
  assertEquals(read("ecn,-tso6"), "csum tso4 ecn");
  assertEquals(
    read("guest-ecn,mrg-rxbuf"),
    "guest-csum guest-tso4 guest-tso6 guest-ecn mrg-rxbuf",
  );
  assertEquals(read("uso,guest-uso"), `csum uso guest-csum ${GUEST_USO}`);
});

Deno.test("the later of two entries counts", () => {
  assertEquals(read("-tso,tso6"), `csum tso6 uso ecn ${GUEST} mrg-rxbuf`);
  assertEquals(read("csum,-csum"), "");
});

Deno.test("QEMU's names of properties will do", () => {
  assertEquals(read("host_tso4,guest_tso6"), "csum tso4 guest-csum guest-tso6");
});

Deno.test("unknown names and contradictions are refused by name", () => {
  for (const text of ["", "tso5", "csum,,ecn", "-", "-none", "constructor", "host-"]) {
    assertThrows(() => read(text), UsageError, "no offload");
  }
  assertThrows(() => read("tso,-csum"), UsageError, "needs csum");
  assertThrows(() => read("-csum,ecn"), UsageError, "needs csum");
  assertThrows(() => read("-tso,ecn"), UsageError, "'ecn' needs tso4 or tso6");
});

Deno.test("whatever is accepted is complete: virtio 1.3, 5.1.3.1", () => {
  const name = fc.constantFrom(...OFFLOAD_NAMES, "tso", "guest-tso", "guest-uso", "all");
  const item = fc.tuple(fc.constantFrom("", "-"), name).map((parts) => parts.join(""));
  fc.assert(fc.property(fc.array(item, { minLength: 1 }), (items) => {
    let on;
    try {
      on = readOffloads({ text: items.join(","), written: "" });
    } catch (error) {
      return error instanceof UsageError;
    }
    const last = new Map(items.map((item) => [item.replace("-", ""), item]));
    const kept = OFFLOAD_NAMES.filter((name) => last.get(name) === name);
    const complete = [...on].every((name) => {
      const { needs } = OFFLOADS[name];
      return needs === undefined || needs.some((need) => on.has(need));
    });
    const grouped = items.some((item) => /all|tso$|guest-uso$/.test(item));
    return complete && (grouped || kept.every((name) => on.has(name)));
  }));
});

Deno.test("--help names every offload", () => {
  const spec = OPTIONS.find(({ name }) => name === "offload");
  const words = spec?.help.join(" ").split(/[ ,:;]+/) ?? [];
  assertEquals(OFFLOAD_NAMES.filter((name) => !words.includes(name)), []);
});
