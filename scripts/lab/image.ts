/**
 * Builds the guest's root file system, an initramfs of busybox, Python and the network
 * driver, with the agent of guest/agent.py; the full image adds the DHCP clients which real
 * guests run. Built once and cached by a hash of what goes in.
 */
import { cached, cacheFolder, digest, exists, LabError } from "./cache.ts";
import { CpioWriter } from "./cpio.ts";
import { type Kernel, program, provide, SETS, unpacked } from "./packages.ts";

/** `base` boots fastest; `full` has dhclient, systemd-networkd, ipconfig, ethtool and iperf3. */
export type ImageKind = "base" | "full";

const DRIVERS = ["virtio_net"];
/** Part of some kernels, a module of others (Debian's user-mode-linux). */
const PERHAPS_MODULES = ["ipv6"];
const LIBRARIES = "usr/lib/x86_64-linux-gnu";
const CLIENTS = [
  "usr/sbin/dhclient",
  "usr/bin/iperf3",
  "usr/bin/networkctl",
  "usr/lib/systemd/systemd-networkd",
  "usr/lib/klibc/bin/ipconfig",
];
/** What iperf3 loads when it ends a thread. */
const UNWINDER = `${LIBRARIES}/libgcc_s.so.1`;
const NETWORKD_FILES = /^usr\/lib\/klibc-.*\.so$/;
const PASSWD = "root:x:0:0:root:/root:/bin/sh\n" +
  "systemd-network:x:998:998::/:/usr/sbin/nologin\nnobody:x:65534:65534::/:/bin/false\n";
const GROUP = "root:x:0:\nsystemd-network:x:998:\nnogroup:x:65534:\n";
const MOTD =
  "\nThis is a guest behind vuelo. `ip addr` shows what it got; leave with exit.\n\n";

async function output(
  path: string,
  args: readonly string[],
  env = {},
): Promise<Uint8Array> {
  const command = new Deno.Command(path, { args: [...args], env, stdin: "null" });
  const result = await command.output();
  if (result.success) return result.stdout;
  const reason = new TextDecoder().decode(result.stderr).trim();
  throw new LabError(`Cannot build the guest: ${path} ${args.join(" ")}: ${reason}`);
}

function* walk(folder: string): Generator<string> {
  for (const entry of Deno.readDirSync(folder)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) yield* walk(path);
    else if (entry.isFile) yield path;
  }
}

/** Adds an executable of `root` and the libraries it is linked with. */
async function addProgram(
  archive: CpioWriter,
  root: string,
  file: string,
): Promise<void> {
  archive.file(file, await Deno.readFile(`${root}/${file}`), 0o755);
  const { path, args } = unpacked(root, file);
  const linked = await new Deno.Command(path, { args: ["--list", ...args] }).output();
  const text = new TextDecoder().decode(linked.stdout);
  for (const [, library] of text.matchAll(/=> (\S+\/usr\/lib\/\S+) \(/g)) {
    const place = library.slice(library.indexOf("/usr/lib/") + 1);
    archive.file(place, await Deno.readFile(library), 0o755);
  }
}

/** Python's library, compiled so that the guest need not do it at every boot. */
async function addPython(
  archive: CpioWriter,
  root: string,
  agent: string,
): Promise<void> {
  const python = unpacked(root, "usr/bin/python3.13");
  await addProgram(archive, root, "usr/bin/python3.13");
  archive.link("usr/bin/python3", "python3.13");
  const work = await Deno.makeTempDir({ prefix: "vuelo-python-" });
  try {
    const library = `${root}/usr/lib/python3.13`;
    const copies: [string, string][] = [];
    for (const path of walk(library)) {
      const name = path.slice(library.length + 1);
      if (path.endsWith(".so")) {
        await addProgram(archive, root, `usr/lib/python3.13/${name}`);
      } else if (path.endsWith(".py")) copies.push([path, name]);
    }
    copies.push([agent, "lab/agent.py"], [GUEST_FILES.streams, "lab/streams.py"]);
    for (const [path, name] of copies) {
      const target = `${work}/${name}`;
      await Deno.mkdir(target.slice(0, target.lastIndexOf("/")), { recursive: true });
      await Deno.copyFile(path, target);
    }
    const options = ["-m", "compileall", "-b", "-q", "--invalidation-mode"];
    const args = [...python.args, ...options, "unchecked-hash", work];
    await output(python.path, args, { PYTHONHOME: `${root}/usr` });
    for (const path of walk(work)) {
      if (!path.endsWith(".pyc")) continue;
      const name = path.slice(work.length + 1);
      const folder = name.startsWith("lab/") ? "usr/lib" : "usr/lib/python3.13";
      archive.file(`${folder}/${name}`, await Deno.readFile(path));
    }
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

/** Adds the kernel modules in DRIVERS and those they depend on, in loading order. */
async function addModules(archive: CpioWriter, modules: string): Promise<void> {
  const xz = await program("xz");
  const paths = new Map<string, string>();
  for (const path of walk(`${modules}/kernel`)) {
    const name = path.slice(path.lastIndexOf("/") + 1).split(".")[0].replaceAll("-", "_");
    paths.set(name, path);
  }
  const order: string[] = [];
  const add = async (name: string) => {
    if (order.includes(`${name}.ko`)) return;
    const path = paths.get(name);
    if (path === undefined) throw new LabError(`The guest kernel has no module ${name}`);
    const data = path.endsWith(".xz")
      ? await output(xz.path, [...xz.args, "-dc", path], xz.env)
      : await Deno.readFile(path);
    // The .modinfo section holds "depends=a,b" as a string ending in zero.
    const depends = /\0depends=([\w,-]*)\0/.exec(new TextDecoder("latin1").decode(data));
    for (const other of depends?.[1].split(",") ?? []) {
      if (other !== "") await add(other.replaceAll("-", "_"));
    }
    archive.file(`usr/lib/lab/${name}.ko`, data);
    order.push(`${name}.ko`);
  };
  for (const name of [...PERHAPS_MODULES.filter((m) => paths.has(m)), ...DRIVERS]) {
    await add(name);
  }
  archive.file("usr/lib/lab-modules", order.join("\n") + "\n");
}

async function addBusybox(archive: CpioWriter, root: string): Promise<void> {
  const path = ["usr/bin/busybox", "bin/busybox"].map((file) => `${root}/${file}`)
    .find(exists);
  if (path === undefined) throw new LabError("The packages of the guest have no busybox");
  archive.file("usr/bin/busybox", await Deno.readFile(path), 0o755);
  const applets = new TextDecoder().decode(await output(path, ["--list"]));
  for (const applet of applets.trim().split("\n")) {
    archive.link(`usr/bin/${applet}`, "busybox");
  }
}

async function addClients(archive: CpioWriter, root: string): Promise<void> {
  for (const file of CLIENTS) await addProgram(archive, root, file);
  archive.file(UNWINDER, await Deno.readFile(`${root}/${UNWINDER}`), 0o755);
  await addProgram(archive, await provide(SETS.ethtool), "usr/sbin/ethtool");
  const klibc = Deno.readDirSync(`${root}/usr/lib`);
  for (const entry of klibc) {
    const file = `usr/lib/${entry.name}`;
    if (NETWORKD_FILES.test(file)) {
      archive.file(file, await Deno.readFile(`${root}/${file}`), 0o755);
    }
  }
  archive.folder("var/lib/dhcp");
  archive.file("etc/machine-id", "00112233445566778899aabbccddeeff\n");
}

/** The guest's files that are part of this repository. */
export const GUEST_FILES = {
  agent: new URL("guest/agent.py", import.meta.url).pathname,
  streams: new URL("guest/streams.py", import.meta.url).pathname,
  init: new URL("guest/init", import.meta.url).pathname,
  dhcp: new URL("guest/dhcp-script", import.meta.url).pathname,
} as const;

/** Returns the path of the initramfs, built first unless one of the same content is there. */
export async function image(kernel: Kernel, kind: ImageKind): Promise<string> {
  const root = await provide(SETS.guest);
  const clients = kind === "full" ? await provide(SETS.clients) : "";
  const own = [
    GUEST_FILES.init,
    GUEST_FILES.dhcp,
    GUEST_FILES.agent,
    GUEST_FILES.streams,
  ];
  const builders = ["image.ts", "cpio.ts"].map((name) => new URL(name, import.meta.url));
  const sources = await Promise.all(
    [...own, ...builders].map((path) => Deno.readFile(path)),
  );
  const key = await digest([kind, kernel.version, root, clients, ...sources]);
  const path = `${cacheFolder()}/initramfs-${kind}-${key}`;
  const xz = await program("xz"); // fetched before the lock is taken
  if (!exists(path)) console.error(`lab: building the ${kind} guest (${xz.path})`);
  return await cached(path, async (temporary) => {
    const archive = new CpioWriter();
    for (const name of ["bin", "sbin", "lib", "lib64"]) archive.link(name, `usr/${name}`);
    for (const name of ["dev", "proc", "sys", "run", "root", "etc", "var"]) {
      archive.folder(name);
    }
    archive.folder("tmp", 0o1777);
    archive.device("dev/console", 5, 1);
    archive.link("var/run", "/run");
    archive.link("usr/lib64/ld-linux-x86-64.so.2", `/${LIBRARIES}/ld-linux-x86-64.so.2`);
    const linker = `${LIBRARIES}/ld-linux-x86-64.so.2`;
    archive.file(linker, await Deno.readFile(`${root}/${linker}`), 0o755);
    await addModules(archive, kernel.modules);
    await addPython(archive, root, GUEST_FILES.agent);
    if (clients !== "") await addClients(archive, clients);
    await addBusybox(archive, root);
    archive.file("etc/passwd", PASSWD);
    archive.file("etc/group", GROUP);
    archive.file("etc/motd", MOTD);
    archive.file("init", sources[0], 0o755);
    archive.file("usr/bin/lab-dhcp", sources[1], 0o755);
    await Deno.writeFile(temporary, archive.finish());
  });
}
