/**
 * Finds the programs the lab needs: on PATH where they are good enough, else unpacked from
 * Debian packages in the cache (see apt.ts), started through their own dynamic linker so
 * that they run on any Debian without being installed.
 */
import { fetchPackages, type PackageSet } from "./apt.ts";
import { cached, cacheFolder, digest, exists, LabError } from "./cache.ts";

const LIBRARIES = "usr/lib/x86_64-linux-gnu";

/** The sets of packages, fetched when first needed. */
export const SETS = {
  qemu: { name: "qemu", packages: ["qemu-system-x86"], dependencies: true },
  kernel: {
    name: "kernel",
    packages: ["linux-image-cloud-amd64"],
    dependencies: false,
  },
  guest: {
    name: "guest",
    packages: ["busybox-static", "python3-minimal", "xz-utils"],
    dependencies: true,
  },
  clients: {
    name: "clients",
    packages: ["isc-dhcp-client", "systemd", "udev", "dbus", "klibc-utils", "iperf3"],
    dependencies: true,
  },
  ethtool: { name: "ethtool", packages: ["ethtool"], dependencies: true },
  iproute: { name: "iproute", packages: ["iproute2"], dependencies: true },
  tshark: { name: "tshark", packages: ["tshark"], dependencies: true },
  dpdk: {
    name: "dpdk",
    packages: [
      "dpdk-dev",
      "librte-net-virtio25",
      "librte-net-tap25",
      "librte-mempool-ring25",
    ],
    dependencies: true,
  },
  passt: { name: "passt", packages: ["passt"], dependencies: true },
  passtOfSid: {
    name: "passt-sid",
    packages: ["passt"],
    dependencies: true,
    suite: "sid",
  },
  bubblewrap: { name: "bubblewrap", packages: ["bubblewrap"], dependencies: true },
  uml: { name: "uml", packages: ["user-mode-linux"], dependencies: true },
} as const satisfies Record<string, PackageSet>;

/** How to start a program: `path` with `args` before its own, and `env` added. */
export interface Program {
  readonly path: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** Returns the folder that holds the unpacked `set`, fetching it first if need be. */
export async function provide(set: PackageSet): Promise<string> {
  if (Deno.build.os !== "linux" || Deno.build.arch !== "x86_64") {
    throw new LabError(`Guests run on Linux x86_64 only, not ${Deno.build.target}`);
  }
  const suite = set.suite === undefined ? [] : [set.suite];
  const key = await digest([...set.packages, String(set.dependencies), ...suite]);
  return await cached(
    `${cacheFolder()}/${set.name}-${key}`,
    (temporary) => fetchPackages(set, temporary),
  );
}

/** Finds an executable on PATH, or in the sbin folders which users may not have there. */
export function onPath(name: string): string | undefined {
  const folders = (Deno.env.get("PATH") ?? "").split(":");
  for (const folder of [...folders, "/usr/sbin", "/sbin"]) {
    const path = `${folder}/${name}`;
    try {
      const stat = Deno.statSync(path);
      if (stat.isFile && ((stat.mode ?? 0) & 0o111) !== 0) return path;
    } catch {
      // Not there, or not for us to see: look on.
    }
  }
  return undefined;
}

/** The program `file` of an unpacked set at `root`, started through its own linker. */
export function unpacked(root: string, file: string): Program {
  const linker = `${root}/${LIBRARIES}/ld-linux-x86-64.so.2`;
  const folders = [LIBRARIES, `${LIBRARIES}/systemd`, `${LIBRARIES}/wireshark`];
  const libraries = folders.map((folder) => `${root}/${folder}`).join(":");
  return {
    path: linker,
    args: ["--library-path", libraries, `${root}/${file}`],
    env: {},
  };
}

const PROGRAMS: Readonly<Record<string, { set: PackageSet; files: readonly string[] }>> =
  {
    ip: { set: SETS.iproute, files: ["usr/bin/ip", "bin/ip", "usr/sbin/ip", "sbin/ip"] },
    ss: { set: SETS.iproute, files: ["usr/bin/ss", "bin/ss"] },
    xz: { set: SETS.guest, files: ["usr/bin/xz"] },
    busybox: { set: SETS.guest, files: ["usr/bin/busybox", "bin/busybox"] },
    tshark: { set: SETS.tshark, files: ["usr/bin/tshark"] },
    bwrap: { set: SETS.bubblewrap, files: ["usr/bin/bwrap"] },
    "systemd-analyze": { set: SETS.clients, files: ["usr/bin/systemd-analyze"] },
  };

/** Finds one of the host's helper programs: on PATH, else unpacked. */
export async function program(name: keyof typeof PROGRAMS & string): Promise<Program> {
  const installed = onPath(name);
  if (installed !== undefined) return { path: installed, args: [], env: {} };
  const known = PROGRAMS[name];
  if (known === undefined) throw new LabError(`${name} is not installed`);
  const root = await provide(known.set);
  const file = known.files.find((candidate) => exists(`${root}/${candidate}`));
  if (file === undefined) throw new LabError(`${known.set.name} came without ${name}`);
  return unpacked(root, file);
}

/** QEMU >= 10: of the machine, else of Debian with its firmware and modules. */
export async function qemu(): Promise<Program> {
  const installed = onPath("qemu-system-x86_64");
  if (installed !== undefined) {
    const output = await new Deno.Command(installed, { args: ["--version"] }).output();
    const version = /version (\d+)/.exec(new TextDecoder().decode(output.stdout));
    if (version !== null && Number(version[1]) >= 10) {
      return { path: installed, args: [], env: {} };
    }
  }
  const root = await provide(SETS.qemu);
  const base = unpacked(root, "usr/bin/qemu-system-x86_64");
  const data = ["usr/share/qemu", "usr/share/seabios"];
  return {
    path: base.path,
    args: [...base.args, ...data.flatMap((folder) => ["-L", `${root}/${folder}`])],
    env: { QEMU_MODULE_DIR: `${root}/${LIBRARIES}/qemu` },
  };
}

/** The guest kernel's image, version and folder of modules. */
export interface Kernel {
  readonly image: string;
  readonly version: string;
  readonly modules: string;
}

/** The guest kernel of Debian's cloud images. */
export async function kernel(): Promise<Kernel> {
  const root = await provide(SETS.kernel);
  for (const entry of Deno.readDirSync(`${root}/boot`)) {
    if (!entry.name.startsWith("vmlinuz-")) continue;
    const version = entry.name.slice("vmlinuz-".length);
    const modules = ["usr/lib", "lib"].map((lib) => `${root}/${lib}/modules/${version}`)
      .find(exists);
    if (modules === undefined) break;
    return { image: `${root}/boot/${entry.name}`, version, modules };
  }
  throw new LabError(`No kernel with modules in ${root}`);
}
