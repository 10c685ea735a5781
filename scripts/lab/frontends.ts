/**
 * The frontends besides QEMU that the lab runs: DPDK's testpmd, whose virtio-user driver
 * is one, and Linux as an ordinary process (user-mode-linux) with its driver virtio_uml.
 */
import { cached, cacheFolder, digest, LabError } from "./cache.ts";
import {
  type Kernel,
  onPath,
  type Program,
  provide,
  SETS,
  unpacked,
} from "./packages.ts";

const LIBRARIES = "usr/lib/x86_64-linux-gnu";

/** The drivers that testpmd shall load, which an installed DPDK loads by itself. */
const DRIVERS = ["mempool_ring", "net_virtio", "net_tap"];

/** DPDK's testpmd, with the drivers virtio-user and tap. */
export async function testpmd(): Promise<Program> {
  const installed = onPath("dpdk-testpmd");
  if (installed !== undefined) return { path: installed, args: [], env: {} };
  const base = unpacked(await provide(SETS.dpdk), "usr/bin/dpdk-testpmd");
  // By name, not by path: DPDK refuses paths below folders that all may write to.
  const drivers = DRIVERS.flatMap((name) => ["-d", `librte_${name}.so.25`]);
  return { ...base, args: [...base.args, ...drivers] };
}

/** Linux as an ordinary process. */
export interface UserModeLinux {
  /** To be started in `folder`. */
  readonly command: readonly string[];
  readonly folder: string;
  readonly kernel: Kernel;
}

/**
 * Linux as an ordinary process. It takes the end of its data (brk) for the end of its own
 * image, which it isn't when the dynamic linker is started in its stead. So a copy of it
 * names the unpacked linker, by a path relative to the folder it is started in.
 */
export async function userModeLinux(): Promise<UserModeLinux> {
  const root = await provide(SETS.uml);
  const libraries = `${root}/${LIBRARIES}`;
  const folder = await cached(
    `${cacheFolder()}/uml-program-${await digest([root])}`,
    async (temporary) => {
      const image = await Deno.readFile(`${root}/usr/bin/linux.uml`);
      renameLinker(image, "ld.so");
      await Deno.mkdir(temporary);
      await Deno.writeFile(`${temporary}/linux`, image, { mode: 0o755 });
      await Deno.symlink(`${libraries}/ld-linux-x86-64.so.2`, `${temporary}/ld.so`);
    },
  );
  const modules = `${root}/usr/lib/uml/modules`;
  const [version] = Deno.readDirSync(modules).map((entry) => entry.name);
  return {
    command: ["env", `LD_LIBRARY_PATH=${libraries}`, "./linux"],
    folder,
    kernel: { image: `${folder}/linux`, version, modules: `${modules}/${version}` },
  };
}

/** Puts `name` in the place of the dynamic linker's path in an executable. */
function renameLinker(image: Uint8Array, name: string): void {
  const old = "/lib64/ld-linux-x86-64.so.2\0";
  // Each byte is one character, so that places in the text are those in the file.
  const place = new TextDecoder("latin1").decode(image.subarray(0, 4096)).indexOf(old);
  if (place < 0) throw new LabError("The executable linux.uml names no dynamic linker");
  new TextEncoder().encodeInto(name.padEnd(old.length, "\0"), image.subarray(place));
}
