import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { FLOW_WORDS, FlowKind, FlowTable, FlowWord, Side } from "./table.ts";
import { FlowTimers } from "./timers.ts";

/** Ports and one byte of each address are enough to make tuples that collide. */
const tuple = fc.record({
  ports: fc.integer({ min: 0, max: 7 }),
  our: fc.integer({ min: 0, max: 3 }),
  end: fc.integer({ min: 0, max: 3 }),
});

function setKey(table: FlowTable, t: { ports: number; our: number; end: number }) {
  table.key.fill(0);
  table.key[1] = t.ports;
  table.key[2] = t.our;
  table.key[6] = t.end;
}

Deno.test("FlowTable finds what a map would, through inserts and removals", () => {
  fc.assert(fc.property(
    fc.array(fc.record({ add: fc.boolean(), t: tuple }), { maxLength: 300 }),
    (steps) => {
      const table = new FlowTable(64, new Uint32Array([1, 2, 3, 4]));
      const model = new Map<string, number>();
      for (const { add, t } of steps) {
        const name = JSON.stringify(t);
        setKey(table, t);
        assertEquals(table.find(FlowKind.tcp, Side.guest), model.get(name) ?? -1);
        assertEquals(table.find(FlowKind.udp, Side.guest), -1);
        if (add && !model.has(name)) {
          const flow = table.allocate(FlowKind.tcp);
          if (flow < 0) {
            assertEquals(model.size, 64);
            continue;
          }
          const at = flow * FLOW_WORDS;
          table.words[at + FlowWord.guestPorts] = t.ports;
          table.words[at + FlowWord.guestOur] = t.our;
          table.words[at + FlowWord.guestEndpoint] = t.end;
          table.insert(flow, Side.guest);
          model.set(name, flow);
        } else if (!add && model.has(name)) {
          const flow = model.get(name)!;
          table.remove(flow, Side.guest);
          table.release(flow);
          model.delete(name);
        }
        assertEquals(table.count, model.size);
      }
    },
  ));
});

Deno.test("FlowTable keeps the two sides of a flow apart", () => {
  const table = new FlowTable(4);
  const flow = table.allocate(FlowKind.udp);
  table.words[flow * FLOW_WORDS + FlowWord.hostPorts] = 5;
  table.insert(flow, Side.host);
  table.key.fill(0);
  table.key[1] = 5;
  assertEquals(table.find(FlowKind.udp, Side.guest), -1);
  assertEquals(table.find(FlowKind.udp, Side.host), flow);
});

Deno.test("FlowTable and FlowTimers hold 100,000 flows at once", () => {
  const count = 100_000;
  const table = new FlowTable(131_072);
  const timers = new FlowTimers(131_072, 0);
  for (let i = 0; i < count; i++) {
    const flow = table.allocate(FlowKind.udp);
    const at = flow * FLOW_WORDS;
    table.words[at + FlowWord.guestPorts] = table.words[at + FlowWord.hostPorts] = i;
    table.insert(flow, Side.guest);
    table.insert(flow, Side.host);
    timers.set(flow, 1000 + i % 7000);
  }
  assertEquals(table.count, count);
  table.key.fill(0);
  for (let i = 0; i < count; i++) {
    table.key[1] = i;
    assertEquals(table.words[table.find(FlowKind.udp, Side.host) * FLOW_WORDS + 10], i);
  }
  let expired = 0;
  for (let flow = timers.expired(9000); flow >= 0; flow = timers.expired(9000)) {
    table.remove(flow, Side.guest);
    table.remove(flow, Side.host);
    table.release(flow);
    expired++;
  }
  assertEquals([expired, table.count], [count, 0]);
  table.key[1] = 5;
  assertEquals(table.find(FlowKind.udp, Side.guest), -1);
});
