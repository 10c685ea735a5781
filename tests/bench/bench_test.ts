import { assert, assertEquals, assertThrows } from "@std/assert";
import { interpose, libc } from "../../ffi/libc.ts";

Deno.test("interpose() sees every call, and only before anything is bound", () => {
  const seen: string[] = [];
  interpose((name, call) => (...args) => {
    seen.push(name);
    return call(...args);
  });
  const table = {
    getppid: { parameters: [], result: "i32" },
    abs: { parameters: ["i32"], result: "i32" },
    no_such_function: { parameters: [], result: "void", optional: true },
  } as const;
  const sys = libc(table);
  assertEquals(sys.getppid(), Deno.ppid);
  assertEquals(sys.abs(-3), 3);
  assertEquals(sys.getppid(), Deno.ppid);
  assertEquals(sys.no_such_function, null);
  assertEquals(seen, ["getppid", "abs", "getppid"]);
  assertThrows(() => interpose((_, call) => call), Error, "too late");
});

interface Output {
  readonly heap: readonly { readonly packets: number; readonly growth: number }[];
  readonly micro: readonly {
    readonly name: string;
    readonly packets: number;
    readonly calls: Record<string, number>;
    readonly [figure: string]: unknown;
  }[];
}

Deno.test("every case runs, and all its figures are numbers", async () => {
  const json = await Deno.makeTempFile();
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--allow-all",
      "--no-check",
      import.meta.resolve("./main.ts"),
      "--level=micro",
      "--seconds=0.01",
      "--packets=2000",
      `--json=${json}`,
    ],
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assert(success, text(stderr));
  const { micro, heap }: Output = JSON.parse(await Deno.readTextFile(json));
  await Deno.remove(json);
  assertEquals(text(stdout).trim().split("\n").length, micro.length + heap.length + 1);
  assert(heap.length > 0 && heap.every(({ packets }) => packets >= 2000));
  assert(heap.every(({ growth }) => Number.isInteger(growth)));
  for (const { name, packets, calls, ...figures } of micro) {
    assert(packets > 0, name);
    for (const [key, value] of Object.entries({ ...figures, ...calls })) {
      if (key !== "unit") assert(Number.isFinite(value), `${name}: ${key} is ${value}`);
    }
    // What the driver takes is subtracted: so short a run may leave nothing.
    const { nanoseconds } = figures;
    assert((nanoseconds as number) >= 0, name);
  }
  // A batch of datagrams takes one system call, and looking up a flow takes none.
  const called = (name: string) => micro.find((one) => one.name.startsWith(name))?.calls;
  assert((called("UDP from guest")?.sendmmsg ?? 0) > 0);
  assertEquals(called("Flow found"), {});
});

const WORKER = import.meta.resolve("./micro/worker.ts");

async function worker(pass: string, name: string, amount: number, ...flags: string[]) {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", "--no-check", ...flags, WORKER, pass, name, `${amount}`],
  }).output();
  const decoder = new TextDecoder();
  assert(success, decoder.decode(stderr));
  return JSON.parse(decoder.decode(stdout));
}

/** Bytes of a frame in these cases. */
const LARGE = 65_495 - 65_495 % 1460;
// From the guest it is a tenth of that, but this driver sends nothing again: where its peer
// waits long for a processor, it may come to a standstill.
const STREAMS = [
  ["TCP to guest, MTU 1500", 1460],
  ["TCP to guest, MTU 1500, TSO", LARGE],
  ["TCP to guest, MTU 65520", 65_480],
] as const;
for (const [name, payload] of STREAMS) {
  Deno.test(`64 KiB of TCP take 1.1 system calls at most: ${name}`, async () => {
    // Where others have the processors, the best of the stretches is as anywhere.
    const { fewest } = await worker("count", name, 0.5);
    const calls = fewest * 65_536 / payload;
    assert(calls <= 1.1, `${calls} calls`);
  });
}

/** V8 goes on to compile: a few hundred kilobytes, however many packets there are. */
const HEAP_NOISE = 1 << 20;
for (const name of ["TCP to guest, MTU 1500", "UDP from guest, 64 bytes"]) {
  Deno.test(`packets leave nothing on the heap: ${name}`, async () => {
    const packets = 300_000;
    const { growth } = await worker("heap", name, packets, "--v8-flags=--expose-gc");
    assert(growth < HEAP_NOISE, `${growth} bytes after ${packets} packets`);
  });
}
