/** Chooses how QEMU runs guests: with KVM where that works, else by translation (TCG). */
import { cached, cacheFolder, digest } from "./cache.ts";
import { image } from "./image.ts";
import { kernel, qemu } from "./packages.ts";

const TCG = ["-accel", "tcg,thread=multi", "-cpu", "max"];
const KVM = ["-accel", "kvm", "-cpu", "host"];
/** With KVM a guest boots in about a second; nobody waits long for one that hangs. */
const PROBE_LIMIT = 10_000;

/** Whether a guest gets as far as its first process with KVM; /dev/kvm alone says little. */
async function probeKvm(): Promise<boolean> {
  try {
    (await Deno.open("/dev/kvm", { read: true, write: true })).close();
  } catch {
    return false;
  }
  const [program, system] = [await qemu(), await kernel()];
  const args = [...program.args, ...KVM, "-M", "q35", "-m", "256", "-nodefaults"];
  args.push(
    "-display",
    "none",
    "-no-reboot",
    "-serial",
    "stdio",
    "-kernel",
    system.image,
  );
  args.push("-initrd", await image(system, "base"));
  args.push("-append", "console=ttyS0 quiet panic=-1 rdinit=/bin/poweroff -- -f");
  const child = new Deno.Command(program.path, {
    args,
    env: program.env,
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  const timer = setTimeout(() => child.kill("SIGKILL"), PROBE_LIMIT);
  const status = await child.status;
  clearTimeout(timer);
  return status.success;
}

let chosen: Promise<readonly string[]> | undefined;

/** QEMU's options for the accelerator; KVM is tried once for each boot of the machine. */
export function accelerator(): Promise<readonly string[]> {
  return chosen ??= choose();
}

async function choose(): Promise<readonly string[]> {
  const boot = await Deno.readTextFile("/proc/sys/kernel/random/boot_id").catch(() => "");
  const key = await digest([boot, (await kernel()).version]);
  const path = `${cacheFolder()}/accelerator-${key}`;
  await image(await kernel(), "base"); // built before the lock is taken
  await cached(path, async (temporary) => {
    await Deno.writeTextFile(temporary, await probeKvm() ? "kvm" : "tcg");
  });
  return await Deno.readTextFile(path) === "kvm" ? KVM : TCG;
}
