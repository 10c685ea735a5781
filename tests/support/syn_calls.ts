/**
 * What SYNs of a guest cost that come to nothing, in calls of libc: a thread of its own
 * counts them, since whatever counts must be there before libc is bound.
 */
import { type Call, interpose } from "../../ffi/libc.ts";

export interface SynTask {
  readonly six: boolean;
  /** Nobody listens there; else nobody answers, and as many as there may be wait. */
  readonly refused: boolean;
  /** Connections leave from an address that was asked for. */
  readonly outbound?: boolean;
  /** Once all is warm, connect() cannot be undone. */
  readonly fails?: boolean;
  /** How many come in before each turn of the loop. */
  readonly atOnce: number;
  readonly syns: number;
}

/** Calls of libc by function. */
export type Calls = Readonly<Record<string, number>>;

const COUNTED = ["socket", "setsockopt", "connect", "close"];
const HALF_OPEN = 16;
const AF_UNSPEC = 0;

/** Whether a call undoes connect(). */
function undoes(name: string, args: readonly unknown[]): boolean {
  if (name !== "connect") return false;
  const address = new Deno.UnsafePointerView(args[1] as Deno.PointerObject);
  return address.getUint16() === AF_UNSPEC;
}

async function count(task: SynTask): Promise<Calls> {
  const calls: Record<string, number> = Object.fromEntries(COUNTED.map((n) => [n, 0]));
  let counting = false;
  interpose((name, call: Call) => (...args) => {
    if (counting && name in calls) calls[name]++;
    return counting && task.fails && undoes(name, args) ? -1 : call(...args);
  });
  const { TcpWorld } = await import("./tcp_world.ts");
  const { HostTcp, LOOPBACK4, LOOPBACK6 } = await import("./host_tcp.ts");
  const { ip, IP4, IP6 } = await import("./flow_config.ts");
  const { limitsOf } = await import("../../src/config.ts");
  const leave = task.outbound
    ? {
      ip4: { ...IP4, outbound: ip("203.0.113.7") },
      ip6: { ...IP6, outbound: ip("2001:db8::7") },
    }
    : {};
  const limits = limitsOf(64, { halfOpen: HALF_OPEN });
  const world = new TcpWorld({ config: { limits, ...leave } });
  const { path } = world;
  const address = task.six ? LOOPBACK6 : LOOPBACK4;
  const listener = world.listen(address);
  if (task.refused) listener.close();
  else { // the queue of those who wait to be accepted fills up
    for (let i = 0; i < 80; i++) world.keep(HostTcp.connect(address, listener.port));
  }
  const send = (syns: number) => {
    const end = path.tcp.counters.refused + syns;
    for (let sent = 0; sent < syns;) {
      for (let i = 0; i < task.atOnce; i++, sent++) {
        world.guest(listener.port, { six: task.six }).queue("S");
      }
      do {
        path.kicked(1); // there is always something to do
        world.turn();
      } while (task.refused && path.tcp.counters.refused < end - syns + sent);
    }
  };
  send(2 * HALF_OPEN);
  counting = true;
  send(task.syns);
  counting = false;
  world.close();
  return calls;
}

if ("WorkerGlobalScope" in globalThis) {
  const thread = globalThis as unknown as { postMessage(calls: Calls): void };
  addEventListener("message", async (event) => {
    thread.postMessage(await count((event as MessageEvent<SynTask>).data));
  });
}

/** Calls that the SYNs of a task take, each of them once all is warm. */
export async function countSynCalls(task: SynTask): Promise<Calls> {
  const worker = new Worker(import.meta.url, { type: "module" });
  try {
    return await new Promise((resolve, reject) => {
      worker.onmessage = (event) => resolve(event.data as Calls);
      worker.onerror = (event) => reject(new Error(event.message));
      worker.postMessage(task);
    });
  } finally {
    worker.terminate();
  }
}
