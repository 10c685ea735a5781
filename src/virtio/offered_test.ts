import { assertEquals } from "@std/assert";
import { offeredFeatures } from "./offered.ts";

Deno.test("a guest that stays with vuelo is offered all", () => {
  // virtio 1.3, 5.1.3 and 6: 0, 1, 3, 7-9, 11-13, 15, 28, 29, 32, 34, 54-56; vhost: 26, 30.
  assertEquals(offeredFeatures("vuelo"), { lo: 0x7400bb8b, hi: 0x1c00005 });
});

Deno.test("a guest that may go to passt is offered what passt offers", () => {
  // The answer of passt to GET_FEATURES, of Debian sid in October 2026.
  assertEquals(offeredFeatures("passt"), { lo: 0x44008002, hi: 1 });
});

Deno.test("--offload takes away from either, and what needs that", () => {
  assertEquals(offeredFeatures("vuelo", new Set()), { lo: 0x74000008, hi: 5 });
  assertEquals(offeredFeatures("passt", new Set()), { lo: 0x44000000, hi: 1 });
  const tso = new Set(["tso4", "guest-csum", "guest-ecn"] as const);
  assertEquals(offeredFeatures("vuelo", tso), { lo: 0x7400000a, hi: 5 });
  assertEquals(offeredFeatures("passt", tso), { lo: 0x44000002, hi: 1 });
  const uso = new Set(["csum", "uso", "guest-uso4"] as const);
  assertEquals(offeredFeatures("vuelo", uso), { lo: 0x74000009, hi: 0x1000005 });
});
