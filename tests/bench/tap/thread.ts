/** A thread of the frontend, as one processor of the guest. */
import type { ThreadJob } from "./memory.ts";
import { receive } from "./receiver.ts";
import { send } from "./sender.ts";

globalThis.addEventListener("message", (event) => {
  const job = (event as MessageEvent<ThreadJob>).data;
  const start = Deno.UnsafePointer.create(BigInt(job.base));
  if (start === null) throw new Error("no memory");
  const memory = Deno.UnsafePointerView.getArrayBuffer(start, job.size);
  if (job.role === "send") send(job, memory);
  else receive(job, memory);
});
