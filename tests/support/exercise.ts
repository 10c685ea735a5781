/** What must work for a guest, whatever it is made of. */
import { assertEquals } from "@std/assert";
import { DNS, NAME } from "./lab.ts";
import type { Agent } from "./lab_agent.ts";
import { FAMILIES, IPV4 } from "./netns.ts";

/** Streams both ways (`bytes` each, with their hash), datagrams, ping and names. */
export async function exercise(guest: Agent, bytes: number): Promise<void> {
  for (const { peer: host } of FAMILIES) {
    for (const op of ["download", "upload"] as const) {
      const result = await guest.call(op, { host, bytes });
      assertEquals([result.bytes, result.received], [bytes, result.sent]);
    }
    const sizes = { first: 0, last: 1400, step: 100 };
    assertEquals((await guest.call("udp_echo", { host, ...sizes })).failed, []);
    await guest.run("ping", "-c", "1", host);
  }
  const { addresses } = await guest.call("resolve", { name: NAME, server: DNS });
  assertEquals(addresses, [IPV4.peer]);
}
