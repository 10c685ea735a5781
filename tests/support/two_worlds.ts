/** Tests with two scripted worlds, between which connections move. */
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { readInfo } from "../../ffi/tcp_repair.ts";
import type { HostTcp } from "./host_tcp.ts";
import { type ScriptedGuest, TcpWorld, type TcpWorldOptions } from "./tcp_world.ts";

/** Of the second world. */
const memory = new GuestMemory(2 ** 36);

/** Runs a test in two worlds of its own, and looks for what it left behind. */
export function inWorlds(
  name: string,
  body: (source: TcpWorld, target: TcpWorld) => void,
  options: TcpWorldOptions = {},
): void {
  Deno.test(name, () => {
    const source = new TcpWorld(options);
    const target = new TcpWorld({ ...options, memory });
    try {
      body(source, target);
    } catch (error) {
      for (const world of [source, target]) {
        try {
          world.close();
        } catch { /* the first error says more */ }
      }
      throw error;
    }
    source.close();
    target.close();
  });
}

/** Everything that comes to a host's socket until `length` bytes are there. */
export function readAll(world: TcpWorld, host: HostTcp, length: number): Uint8Array {
  const parts: Uint8Array[] = [];
  let got = 0;
  world.until(`${length} bytes at the peer`, () => {
    const more = host.receive();
    if (typeof more === "number") throw new Error(`the peer's socket: errno ${more}`);
    if (more !== "end") {
      parts.push(more);
      got += more.length;
    }
    return got >= length;
  });
  const all = new Uint8Array(got);
  for (let at = 0; parts.length > 0;) {
    const part = parts.shift()!;
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Waits for FIN at a host's socket, whose data has been read. */
export function awaitEnd(world: TcpWorld, host: HostTcp): void {
  world.until("FIN at the peer", () => host.receive() === "end");
}

/** Linux's state of the socket of a guest's connection. */
export function kernelState(world: TcpWorld, guest: ScriptedGuest): number {
  return readInfo(world.path.table.fd(world.flowOf(guest)))!.state;
}
