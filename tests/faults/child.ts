/**
 * vuelo as a process of its own, or a thread of it, in which a call fails: which one, and
 * where to note what was called, the variable VUELO_FAULT says (order.ts).
 */
import { Injector } from "./injector.ts";
import { ORDER, type Order } from "./order.ts";

const THREAD = "WorkerGlobalScope" in globalThis;
const { searchParams } = new URL(import.meta.url);
const thread = Number(searchParams.get("thread") ?? 0);
const { folder, failing } = JSON.parse(Deno.env.get(ORDER) ?? "") as Order;

const encoder = new TextEncoder();
/** Opened before no file can be opened any more. */
const notes = Deno.openSync(`${folder}/${thread}`, { append: true, create: true });
const note = (...words: readonly string[]) => {
  notes.writeSync(encoder.encode(words.join("\t") + "\n"));
};

const injector = Injector.install({ real: true });
injector.armed = true;
if (failing === undefined) {
  const places = new Set<string>();
  injector.reached = (reached) => {
    for (const place of reached) {
      if (!places.has(place)) note("place", place);
      places.add(place);
    }
  };
  injector.decide = (name, at) => {
    note("call", name, at());
    return undefined;
  };
} else if (failing.thread === thread) {
  let seen = 0;
  injector.decide = (name, at) => {
    // Always: where a call came from cannot be read for the first time when no file can.
    const site = at();
    if (name !== failing.name || site !== failing.site) return undefined;
    if (++seen !== failing.nth) return undefined;
    note("failed");
    return failing.fault;
  };
}

/** Threads load this module before their own. */
const Plain = globalThis.Worker;
let threads = 0;
globalThis.Worker = class extends Plain {
  constructor(module: string | URL, options?: WorkerOptions) {
    const url = new URL("./child.ts", import.meta.url);
    url.search = new URLSearchParams({ module: String(module), thread: `${++threads}` })
      .toString();
    super(url, options);
  }
};

if (Deno.args[0] === "repair") {
  // Where stacks lead in this file is read before no file can be read any more.
  const { accessOf } = await import("../../src/host/socket_access.ts");
  try {
    accessOf(undefined as never);
  } catch (error) {
    String((error as Error).stack);
  }
}

const early: unknown[] = [];
const keep = (event: Event) => {
  early.push((event as MessageEvent).data);
};
if (THREAD) addEventListener("message", keep);
await import(searchParams.get("module") ?? "../../main.ts");
if (THREAD) {
  removeEventListener("message", keep);
  for (const data of early) dispatchEvent(new MessageEvent("message", { data }));
}
