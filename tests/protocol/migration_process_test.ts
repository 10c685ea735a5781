/** A process that is to end, or whose frontend goes, in each phase of a move. */
import { concat } from "@std/bytes";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Errno } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import { setNonBlocking } from "../../ffi/memory.ts";
import { createPipe, readSome, writeSome } from "../../ffi/pipe.ts";

import { encodeVuelo } from "../../src/wire/state/decode.ts";
import { HEADER_SIZE } from "../../src/wire/state/header.ts";
import { inFolder, vuelo } from "../support/cli.ts";
import { emptyState } from "../support/fake_movable.ts";
import { Ask, asU64, Frontend, payload, type Reply, u64 } from "../support/frontend.ts";
import { until } from "../support/lab_process.ts";
import { sampleState, tcpSample } from "../support/state_samples.ts";

const OPTIONS = ["-f", "--one-off", "-a", "192.0.2.5/24", "-g", "192.0.2.1"];
/** REPLY_ACK, DEVICE_STATE. */
const PROTOCOL = 2 ** 3 + 2 ** 19;
const FEATURES = 2 ** 30 + 2 ** 15;
const PHASES = ["saving", "saved", "loading", "loaded"] as const;

/** A frontend of a process, which answers in its own time. */
class RemoteFrontend {
  #end = -1;

  constructor(readonly frontend: Frontend) {}

  async ask(request: number, bytes?: Uint8Array, fds: number[] = []): Promise<number> {
    this.frontend.send(request, bytes, { needReply: true, fds });
    let reply: Reply | null = null;
    await until("a reply", () => (reply = this.frontend.receive()) !== null);
    return asU64(reply!.payload);
  }

  async bring(phase: typeof PHASES[number]): Promise<void> {
    this.frontend.send(Ask.SET_PROTOCOL_FEATURES, u64(PROTOCOL));
    assertEquals(await this.ask(Ask.SET_FEATURES, u64(FEATURES)), 0);
    const save = phase.startsWith("sav");
    const [reading, writing] = createPipe();
    const [ours, theirs] = save ? [writing, reading] : [reading, writing];
    this.#end = theirs;
    setNonBlocking(theirs);
    const answer = await this.ask(
      Ask.SET_DEVICE_STATE_FD,
      payload(["u32", save ? 0 : 1], ["u32", 0]),
      [ours],
    );
    close(ours);
    assertEquals(answer, 0x100);
    if (phase === "saved") await this.#readAll();
    if (phase === "loaded") await this.writeAll();
    if (phase.endsWith("ed")) assertEquals(await this.ask(Ask.CHECK_DEVICE_STATE), 0);
  }

  async #readAll(): Promise<void> {
    const buffer = new Uint8Array(1 << 20);
    await until("the stream's end", () => readSome(this.#end, buffer) === 0);
  }
  async writeAll(): Promise<void> {
    await this.write(concat(encodeVuelo(emptyState(1))));
    close(this.#end);
    this.#end = -1;
  }

  async write(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    let at = 0;
    await until("the stream is taken", () => {
      at += Math.max(0, writeSome(this.#end, bytes.subarray(at)));
      return at === bytes.length;
    });
  }

  close(): void {
    this.frontend.close();
    if (this.#end !== -1) close(this.#end);
    this.#end = -1;
  }
}

/** Runs a process that serves one frontend; what it said, once it has ended well. */
async function serving(
  run: (remote: RemoteFrontend, child: Deno.ChildProcess) => Promise<void>,
  more: readonly string[] = [],
): Promise<string> {
  let said = "";
  await inFolder(async (folder) => {
    const path = `${folder}/socket`;
    const options = [...OPTIONS, "-s", path, "--repair-path", "none", ...more];
    const [program, args] = vuelo(options);
    const child = new Deno.Command(program, { args, stdin: "null", stderr: "piped" })
      .spawn();
    let frontend: Frontend | undefined;
    await until("the socket listens", () => {
      try {
        frontend = Frontend.connect(path);
      } catch {
        // not there, or not yet listening
      }
      return frontend !== undefined;
    });
    const remote = new RemoteFrontend(frontend!);
    try {
      await run(remote, child);
      const { code, stderr } = await child.output();
      said = new TextDecoder().decode(stderr);
      assertEquals(code, 0, said);
    } finally {
      remote.close();
    }
  });
  return said;
}

for (const phase of PHASES) {
  for (const end of ["SIGTERM", "the frontend goes"] as const) {
    Deno.test(`${end} while a guest's state is ${phase}: the process ends well`, async () => {
      await serving(async (remote, child) => {
        await remote.bring(phase);
        if (end === "SIGTERM") child.kill("SIGTERM");
        else remote.close();
      });
    });
  }
}

const CHECK_DEVICE_STATE = 43;

Deno.test("a check before the stream is all there is answered when it is", async () => {
  await serving(async (remote) => {
    await remote.bring("loading");
    remote.frontend.send(CHECK_DEVICE_STATE);
    await remote.writeAll();
    let reply: Reply | null = null;
    await until("a reply", () => (reply = remote.frontend.receive()) !== null);
    assertEquals(asU64(reply!.payload), 0);
    remote.close();
  });
});

Deno.test("nothing else waits for a check that cannot be answered yet", async () => {
  const said = await serving(async (remote, child) => {
    await remote.bring("loading");
    remote.frontend.send(CHECK_DEVICE_STATE);
    child.kill("SIGTERM");
    await child.status;
  });
  assert(!said.includes("before it was complete"), said);
});

Deno.test("a frontend that does not wait for a check's answer is sent away", async () => {
  const said = await serving(async (remote) => {
    await remote.bring("loading");
    remote.frontend.send(CHECK_DEVICE_STATE);
    remote.frontend.send(CHECK_DEVICE_STATE);
    await until("the connection ends", () => remote.frontend.ended);
  });
  assertStringIncludes(said, "before the reply to CHECK_DEVICE_STATE");
});

Deno.test("a state beyond --max-state is refused before it is there", async () => {
  const { tcp: [{ flow }], ...rest } = sampleState();
  const tcp = [tcpSample(flow, { receiveQueue: new Uint8Array(2 ** 20) })];
  const stream = concat(encodeVuelo({ ...rest, tcp }));
  const said = await serving(async (remote) => {
    await remote.bring("loading");
    await remote.write(stream.subarray(0, HEADER_SIZE + 4096));
    assertEquals(await remote.ask(CHECK_DEVICE_STATE), Errno.EFBIG);
    remote.close();
  }, ["--max-state", "1"]);
  assertStringIncludes(said, `expected ${2 ** 20} at most (--max-state)`);
});
