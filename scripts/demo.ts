/**
 * Shows vuelo at work: boots a Linux guest behind it and uses the network from both sides.
 * With --shell, leaves the user in the guest's console instead.
 */
import { IPV4, IPV6, Network } from "../tests/support/netns.ts";
import { Backend, backendCommand } from "../tests/support/lab_backend.ts";
import { Port, type Transfer } from "../tests/support/lab_agent.ts";
import { Peer } from "../tests/support/lab_peer.ts";
import { run } from "../tests/support/lab_process.ts";
import { reenter, reentered, rights } from "../tests/support/lab_userns.ts";
import { Guest, guestCommand } from "../tests/support/qemu.ts";
import { accelerator } from "./lab/accelerator.ts";
import { LabError } from "./lab/cache.ts";
import { image } from "./lab/image.ts";
import { kernel, program, provide, qemu, SETS } from "./lab/packages.ts";
import { toolArgs } from "./tool_args.ts";

const HELP = `Boots a guest behind vuelo and shows what works.

  deno task demo                 the whole show, about half a minute
  deno task demo --shell         leaves you in the guest's console
  deno task demo --backend '...' another back-end's command, with {socket} in it`;
const DNS = "192.0.2.53";
const NAME = "demo.vuelo";
const SIZE = 64 << 20;

/** Progress on the terminal: what is being done, then what came of it and how long it took. */
class Show {
  readonly #live = Deno.stdout.isTerminal();
  readonly #encoder = new TextEncoder();

  async step<T>(
    what: string,
    work: () => Promise<T>,
    tell: (result: T) => string,
  ): Promise<T> {
    if (this.#live) this.#write(`   ${what} ...`);
    const start = performance.now();
    try {
      const result = await work();
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      this.#line("ok", `${what}: ${tell(result)}`, ` (${seconds} s)`);
      return result;
    } catch (error) {
      this.#line("no", `${what}: failed`, "");
      throw error;
    }
  }

  note(text: string): void {
    this.#line("  ", text, "");
  }

  #line(mark: string, text: string, after: string): void {
    this.#write(`${this.#live ? "\r\x1b[K" : ""}${mark} ${text}${after}\n`);
  }

  #write(text: string): void {
    Deno.stdout.writeSync(this.#encoder.encode(text));
  }
}

const show = new Show();
const cleaning: (() => Promise<void>)[] = [];

async function clean(): Promise<void> {
  for (let step = cleaning.pop(); step !== undefined; step = cleaning.pop()) await step();
}

/** Fetches and builds all there is to fetch, while the machine's network is at hand. */
async function prepare(): Promise<string> {
  const program_ = await qemu();
  await program("ip");
  await provide(SETS.guest);
  const system = await kernel();
  await image(system, "base");
  const version = await run([program_.path, ...program_.args, "--version"], {
    env: program_.env,
  });
  const way = (await accelerator()).includes("kvm")
    ? "KVM"
    : "translation, as KVM is not usable";
  return `QEMU ${
    /version (\S+)/.exec(version)?.[1]
  } with ${way}, Linux ${system.version}`;
}

interface Stage {
  readonly network: Network | undefined;
  readonly backend: Backend;
  /** A port of the host that leads to the guest's echo service. */
  readonly forwarded: number;
  readonly http: number;
}

function freePort(): number {
  using listener = Deno.listen({ port: 0 });
  return listener.addr.port;
}

/** Namespaces, the peer with its services, and the back-end. */
async function setUp(command: readonly string[], isolated: boolean): Promise<Stage> {
  const network = isolated
    ? await show.step(
      "Network namespaces",
      () => Network.create(),
      (made) => `${made.host} for vuelo, ${made.peer} for the rest of the world`,
    )
    : undefined;
  if (network) cleaning.push(() => network.close());
  const http = isolated ? 80 : freePort();
  const peer = await Peer.start(network?.peer, isolated);
  cleaning.push(() => peer.stop());
  await peer.call("serve_http", { size: SIZE, port: http });
  if (isolated) {
    await peer.call("serve_names", { names: { [NAME]: [IPV4.peer, IPV6.peer] } });
  }
  const forwarded = freePort();
  const args = ["-t", `${forwarded}:${Port.echo}`];
  if (isolated) args.push("--dns-forward", DNS, "--dns-host", IPV4.peer, "-D", DNS);
  const backend = await show.step(
    "Back-end",
    () => Backend.start({ namespace: network?.host, command, args }),
    (started) => `process ${started.pid} listens on ${started.socket}`,
  );
  cleaning.push(() => backend.stop());
  return { network, backend, forwarded, http };
}

function megabytes(result: Transfer): string {
  return `${(result.bytes / 1e6).toFixed(0)} MB, ` +
    `${(result.bytes / result.seconds / 1e6).toFixed(0)} MB/s, SHA-256 ` +
    `${result.received.slice(0, 16)}... the same at both ends`;
}

/** Downloads with wget in the guest and compares the checksum with the server's. */
async function download(guest: Guest, base: string): Promise<Transfer> {
  const start = performance.now();
  const sum = await guest.shell(`wget -q -O - ${base}/file | sha256sum`);
  const seconds = (performance.now() - start) / 1000;
  const expected = await guest.run("wget", "-q", "-O", "-", `${base}/file.sha256`);
  const received = sum.split(" ")[0];
  return checked({ bytes: SIZE, sent: expected.trim(), received, seconds });
}

/**
 * Uploads with wget in the guest; the server answers with the checksum of what came.
 * Text, as busybox's wget ends a file to post at its first zero byte.
 */
async function upload(guest: Guest, base: string): Promise<Transfer> {
  const text = "head -c 12582912 /dev/urandom | base64 -w 0";
  const sum = await guest.shell(`${text} | tee /tmp/up | sha256sum`);
  const start = performance.now();
  const reply = await guest.shell(`wget -q -O - --post-file /tmp/up ${base}/file`);
  const seconds = (performance.now() - start) / 1000;
  return checked({
    bytes: 16 << 20,
    sent: sum.split(" ")[0],
    received: reply.trim(),
    seconds,
  });
}

function checked(result: Transfer): Transfer {
  if (result.sent === result.received) return result;
  throw new Error(`The SHA-256 is ${result.received}, not ${result.sent}`);
}

async function lease(guest: Guest): Promise<Map<string, string>> {
  await guest.shell(
    "ip link set eth0 up; udhcpc -i eth0 -q -f -n -s /bin/lab-dhcp >/run/udhcpc 2>&1",
  );
  const text = await guest.call("wait", { path: "/run/lease", contains: "address" });
  return new Map(
    text.trim().split(/\s+/).map((item) => item.split("=", 2) as [string, string]),
  );
}

/** The part of the show that needs a world of its own. */
async function showWorld(guest: Guest, stage: Stage): Promise<void> {
  await show.step(
    "IPv6 address",
    () =>
      guest.shell(
        "for i in $(seq 500); do ip -6 addr show dev eth0 scope global | " +
          "sed -n 's/.*inet6 \\([^ ]*\\).*/\\1/p' | grep . && exit; usleep 20000; done; exit 1",
      ),
    (text) => `${text.trim()}, by router advertisement`,
  );
  for (const family of [IPV4, IPV6]) {
    await show.step(
      `Ping of ${family.peer}`,
      () => guest.run("ping", "-c", "3", "-i", "0.2", family.peer),
      (text) => {
        const time = /min\/avg\/max = ([\d.]+)\/([\d.]+)/.exec(text);
        return `3 of 3 came back, ${time?.[2]} ms on average`;
      },
    );
  }
  await show.step(
    `DNS through ${DNS}`,
    () => guest.call("resolve", { name: NAME, server: DNS }),
    ({ addresses }) => `${NAME} is ${addresses.join(", ")}`,
  );
  await show.step(
    `Download from http://${NAME}`,
    () => download(guest, `http://${NAME}:${stage.http}`),
    megabytes,
  );
  await show.step(
    `Upload to ${IPV6.peer}`,
    async () => checked(await guest.call("upload", { host: IPV6.peer, bytes: SIZE })),
    megabytes,
  );
}

/** What works with nothing but the host's own loopback, behind the guest's gateway. */
async function showLoopback(guest: Guest, gateway: string, stage: Stage): Promise<void> {
  show.note(
    "no network namespaces here: only the host's loopback, as the gateway, is used",
  );
  await show.step(
    `Download from ${gateway}, which is the host's loopback`,
    () => download(guest, `http://${gateway}:${stage.http}`),
    megabytes,
  );
  await show.step(
    `Upload to ${gateway}`,
    () => upload(guest, `http://${gateway}:${stage.http}`),
    megabytes,
  );
}

async function showAll(stage: Stage): Promise<void> {
  const guest = await show.step(
    "Guest",
    () => Guest.start({ socket: stage.backend.socket, image: "base" }),
    () => "booted, driver and agent run",
  );
  cleaning.push(() => guest.stop());
  const got = await show.step(
    "DHCP lease",
    () => lease(guest),
    (map) =>
      `${map.get("address")}, gateway ${map.get("gateway")}, DNS ${map.get("dns")}`,
  );
  if (stage.network) await showWorld(guest, stage);
  else await showLoopback(guest, got.get("gateway") ?? "", stage);
  await guest.call("serve", {});
  const local = await Peer.start(stage.network?.host, false);
  cleaning.push(() => local.stop());
  const request = { host: "127.0.0.1", port: stage.forwarded, bytes: 1 << 20 };
  await show.step(
    `Port ${stage.forwarded} of the host, forwarded to the guest`,
    async () => checked({ ...await local.call("echo", request), seconds: 1 }),
    () => "1 MiB sent and echoed by the guest, SHA-256 the same",
  );
  await showEnd();
}

async function showShell(stage: Stage): Promise<void> {
  if (stage.network) {
    show.note(
      `try: wget -O- http://${NAME}/file.sha256; ping ${IPV6.peer}; nslookup ${NAME}`,
    );
  }
  show.note(
    "the guest's console follows; leave it with `exit`, or at once with Ctrl-A X",
  );
  const folder = await Deno.makeTempDir({ prefix: "vuelo-guest-" });
  cleaning.push(() => Deno.remove(folder, { recursive: true }));
  const { argv, env } = await guestCommand(
    { socket: stage.backend.socket, image: "base", interactive: true },
    folder,
  );
  const child = new Deno.Command(argv[0], { args: argv.slice(1), env }).spawn();
  cleaning.push(async () => {
    try {
      child.kill();
    } catch {
      // It has ended, as it should have.
    }
    await child.status;
  });
  await child.status;
  await showEnd();
}

async function showEnd(): Promise<void> {
  await show.step("End", clean, () => "guest, back-end and namespaces are gone");
}

async function main(): Promise<number> {
  const options = toolArgs({
    name: "demo",
    usage: HELP,
    boolean: ["shell"],
    string: ["backend"],
  });
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    if (options.shell && signal === "SIGINT") continue; // the guest's own
    Deno.addSignalListener(signal, () => clean().finally(() => Deno.exit(130)));
  }
  if (!reentered()) await show.step("Guest's parts", prepare, (text) => text);
  const may = await rights();
  if (may === "namespace") {
    const script = new URL(import.meta.url).pathname;
    return await reenter(script, Deno.args);
  }
  const given = options.backend;
  const command = typeof given === "string" ? given.split(/\s+/) : backendCommand();
  try {
    const stage = await setUp(command, may === "root");
    await (options.shell ? showShell(stage) : showAll(stage));
  } finally {
    await clean();
  }
  return 0;
}

try {
  Deno.exit(await main());
} catch (error) {
  console.error(error instanceof LabError ? `demo: ${error.message}` : error);
  Deno.exit(1);
}
