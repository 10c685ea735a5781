/** `deno task demo`, and `--shell` with somebody at the terminal. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Process, run, until } from "../support/lab_process.ts";
import { IPV4, IPV6 } from "../support/netns.ts";

const SCRIPT = new URL("../../scripts/demo.ts", import.meta.url).pathname;
const DEMO = [Deno.execPath(), "run", "--allow-all", SCRIPT];
const BOOT_LIMIT = 120_000;
const PROMPT = /\/ # /;

/** A program on a terminal of its own, with the lines of a user. */
class Terminal {
  readonly process: Process;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reading: Promise<void>;
  /** What came after the last match. */
  #text = "";
  all = "";

  constructor(argv: readonly string[]) {
    const line = argv.map((word) => `'${word}'`).join(" ");
    const script = ["script", "-q", "-e", "-f", "-c", line, "/dev/null"];
    this.process = new Process(script, { piped: true });
    this.#writer = this.process.stdin.getWriter();
    this.#reading = this.#read();
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    for await (const part of this.process.stdout) {
      const text = decoder.decode(part, { stream: true });
      this.#text += text;
      this.all += text;
    }
  }

  /** Waits for what the program shows, and returns all that it showed before. */
  async shows(pattern: RegExp, limit?: number): Promise<string> {
    await until(`${pattern} on the terminal`, () => {
      if (this.process.ended) throw new Error(`ended without ${pattern}: ${this.all}`);
      return pattern.test(this.#text);
    }, limit);
    const match = pattern.exec(this.#text)!;
    const end = match.index + match[0].length;
    const before = this.#text.slice(0, end);
    this.#text = this.#text.slice(end);
    return before;
  }

  async type(keys: string): Promise<void> {
    await this.#writer.write(new TextEncoder().encode(keys));
  }

  /** Types a command of the guest's shell and returns what it prints. */
  async command(line: string): Promise<string> {
    await this.type(`${line}\n`);
    return await this.shows(PROMPT);
  }

  async end(): Promise<number> {
    const { code } = await this.process.status;
    await this.#reading;
    return code;
  }
}

/** Runs `work` in the guest's shell; what it does ends the guest, and so the demo. */
async function inShell(work: (terminal: Terminal) => Promise<void>): Promise<void> {
  const terminal = new Terminal([...DEMO, "--shell"]);
  try {
    await terminal.shows(/leave with exit/, BOOT_LIMIT);
    await terminal.shows(PROMPT);
    await work(terminal);
    assertEquals(await terminal.end(), 0);
    assertMatch(terminal.all, /ok End: guest, back-end and namespaces are gone/);
  } catch (error) {
    throw new Error(`${(error as Error).message}\nterminal:\n${terminal.all}`, {
      cause: error,
    });
  } finally {
    await terminal.process.stop();
  }
}

Deno.test({
  name: "The demo shows what works, to its end",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const shown = await run(DEMO);
    for (
      const what of [
        "DHCP lease",
        "IPv6 address",
        `Ping of ${IPV4.peer}`,
        `Ping of ${IPV6.peer}`,
        "DNS through",
        "Download from",
        "Upload to",
        "forwarded to the guest",
        "End",
      ]
    ) assertMatch(shown, new RegExp(`^ok .*${what}`, "m"));
  },
});

Deno.test({
  name: "A shell in the demo's guest: addresses, ping, Ctrl-C and exit",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    inShell(async (terminal) => {
      const addresses = await terminal.command("ip addr show dev eth0");
      assertStringIncludes(addresses, `inet ${IPV4.host}/${IPV4.prefix} `);
      assertStringIncludes(addresses, "inet6 2001:db8:1:");
      for (const { peer } of [IPV4, IPV6]) {
        assertMatch(await terminal.command(`ping -c 1 ${peer}`), /1 packets received/);
      }
      await terminal.type(`ping ${IPV4.peer}\n`);
      await terminal.shows(/seq=0/);
      await terminal.type("\x03");
      await terminal.shows(PROMPT);
      await terminal.type("exit\n");
    }),
});

Deno.test({
  name: "A shell in the demo's guest: reboot, poweroff",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    inShell(async (terminal) => {
      await terminal.type("reboot\n");
      await terminal.shows(/leave with exit/, BOOT_LIMIT);
      await terminal.shows(PROMPT);
      assertMatch(await terminal.command(`ping -c 1 ${IPV6.peer}`), /1 packets received/);
      await terminal.type("poweroff\n");
    }),
});

Deno.test({
  name: "A shell in the demo's guest: Ctrl-A X",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () => inShell((terminal) => terminal.type("\x01x")),
});
