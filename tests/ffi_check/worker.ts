/** A thread of a checked process: the check first, then the thread's own module. */
import { install } from "./install.ts";

const { searchParams } = new URL(import.meta.url);
const early: unknown[] = [];
const keep = (event: Event) => {
  early.push((event as MessageEvent).data);
};
addEventListener("message", keep);
await install(searchParams.get("folder") ?? "", searchParams.get("registry") ?? "0");
await import(searchParams.get("module") ?? "");
removeEventListener("message", keep);
for (const data of early) dispatchEvent(new MessageEvent("message", { data }));
