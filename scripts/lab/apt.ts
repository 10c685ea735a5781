/**
 * Fetches packages of a Debian suite and unpacks them into a folder, without touching the
 * machine: apt runs on a state of its own (lists, empty status, archives), so nothing is
 * installed, no configuration changes, and an ordinary user may do it.
 */
import { cacheFolder, LabError } from "./cache.ts";

const SUITE = "trixie";
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** What to fetch; `dependencies` says whether to fetch what the packages depend on. */
export interface PackageSet {
  readonly name: string;
  readonly packages: readonly string[];
  readonly dependencies: boolean;
  /** Of this suite instead of the lab's. */
  readonly suite?: "sid";
}

interface Output {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function run(
  command: string,
  args: readonly string[],
  cwd?: string,
): Promise<Output> {
  const child = new Deno.Command(command, {
    args: [...args],
    cwd,
    env: { LC_ALL: "C.UTF-8", DEBIAN_FRONTEND: "noninteractive" },
    stdin: "null",
  });
  let output: Deno.CommandOutput;
  try {
    output = await child.output();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new LabError(
      `The lab needs ${command} to fetch QEMU and a guest: run it on Debian 12 or 13, ` +
        "or put qemu-system-x86_64 and the other programs on PATH",
    );
  }
  const decoder = new TextDecoder();
  return {
    code: output.code,
    stdout: decoder.decode(output.stdout),
    stderr: decoder.decode(output.stderr),
  };
}

async function demand(
  what: string,
  command: string,
  args: readonly string[],
  cwd?: string,
): Promise<string> {
  const result = await run(command, args, cwd);
  if (result.code === 0) return result.stdout;
  const reason = result.stderr.trim().split("\n").filter((line) => line.startsWith("E:"));
  throw new LabError(
    `Cannot ${what}: ${command} failed (${reason.join("; ") || result.stderr.trim()})`,
  );
}

/** The options that give apt a state of its own in `folder`. */
function privateState(folder: string): string[] {
  const options = [
    `Dir::Etc::SourceList=${folder}/lab.sources`,
    `Dir::Etc::SourceParts=${folder}/empty`,
    `Dir::Etc::Preferences=${folder}/none`,
    `Dir::Etc::PreferencesParts=${folder}/empty`,
    `Dir::State::Lists=${folder}/lists`,
    `Dir::State::status=${folder}/status`,
    `Dir::State::extended_states=${folder}/extended_states`,
    `Dir::Cache=${folder}`,
    `Dir::Cache::Archives=${folder}/archives`,
    "APT::Sandbox::User=root",
    "APT::Install-Recommends=false",
    // A mirror that lags behind will do; signatures are checked all the same.
    "Acquire::Check-Valid-Until=false",
    "Acquire::Retries=3",
    "Debug::NoLocking=true",
  ];
  return options.flatMap((option) => ["-o", option]);
}

/** The archive that the machine's own Debian sources name, for all else to come from. */
async function archive(folder: string): Promise<string> {
  const query = async (options: readonly string[]) =>
    (await demand("read the machine's package sources", "apt-get", [
      "indextargets",
      ...options,
      "--format",
      "$(REPO_URI)|$(COMPONENT)|$(RELEASE)|",
      "Created-By: Packages",
      "Origin: Debian",
    ])).split("\n").find((line) =>
      line.includes("|main|") && !line.includes("-security")
    );
  // A fresh machine may never have run `apt-get update`: do it beside its own lists.
  const own = [
    "-o",
    `Dir::State::Lists=${folder}/machine`,
    "-o",
    "Debug::NoLocking=true",
  ];
  let found = await query([]);
  if (found === undefined) {
    await Deno.mkdir(`${folder}/machine/partial`, { recursive: true });
    const update = ["update", "-q", ...own, "-o", "APT::Sandbox::User=root"];
    await demand("read the machine's package sources", "apt-get", update);
    found = await query(own);
  }
  if (found === undefined) {
    throw new LabError(
      "No Debian archive (component main) is configured in this machine's apt sources, " +
        `so QEMU and a guest of Debian ${SUITE} cannot be fetched`,
    );
  }
  return found.split("|")[0];
}

async function prepare(folder: string, suite: string): Promise<string[]> {
  for (const name of ["lists/partial", "archives/partial", "empty"]) {
    await Deno.mkdir(`${folder}/${name}`, { recursive: true });
  }
  const signed = await Deno.stat(KEYRING).then(() => `Signed-By: ${KEYRING}\n`, () => "");
  const uri = await archive(folder);
  await Deno.writeTextFile(`${folder}/status`, "");
  await Deno.writeTextFile(
    `${folder}/lab.sources`,
    `Types: deb\nURIs: ${uri}\nSuites: ${suite}\nComponents: main\n${signed}`,
  );
  return privateState(folder);
}

interface Deb {
  readonly file: string;
  readonly size: number;
}

/** Reads the lines of --print-uris: 'uri' file size hash. */
function parseUris(text: string): Deb[] {
  return [...text.matchAll(/^'[^']+' (\S+\.deb) (\d+)/gm)]
    .map(([, file, size]) => ({ file, size: Number(size) }));
}

/** A kernel's meta package only names the package of the day, which is the one wanted. */
async function resolveMeta(state: string[], name: string): Promise<string> {
  if (!name.startsWith("linux-image-")) return name;
  const text = await demand(`look up ${name}`, "apt-cache", ["show", ...state, name]);
  const depends = /^Depends: (linux-image-\S+)/m.exec(text);
  if (depends === null) throw new LabError(`Package ${name} names no kernel`);
  return depends[1];
}

/**
 * Fetches `set` and unpacks it into the new folder `target`. Says on standard error what it
 * fetches. Throws LabError when apt, dpkg-deb, the archive or a package is missing.
 */
export async function fetchPackages(set: PackageSet, target: string): Promise<void> {
  const suite = set.suite ?? SUITE;
  const folder = `${cacheFolder()}/apt${set.suite === undefined ? "" : `-${suite}`}`;
  await Deno.mkdir(folder, { recursive: true });
  const say = (text: string) => console.error(`lab: ${text}`);
  say(`looking for ${set.packages.join(", ")} in Debian ${suite}`);
  const state = await prepare(folder, suite);
  const fetch = `fetch ${set.packages.join(", ")}`;
  await demand(fetch, "apt-get", ["update", "-q", ...state]);
  const names: string[] = [];
  for (const name of set.packages) names.push(await resolveMeta(state, name));
  const verb = set.dependencies ? ["install", "-y", "--download-only"] : ["download"];
  const args = [...verb, "-q", ...state];
  const listed = await demand(fetch, "apt-get", [...args, "--print-uris", ...names]);
  const debs = parseUris(listed);
  const megabytes = (debs.reduce((sum, deb) => sum + deb.size, 0) / 1e6).toFixed(1);
  say(`fetching ${set.name}: ${debs.length} packages, ${megabytes} MB`);
  await demand(fetch, "apt-get", [...args, ...names], `${folder}/archives`);
  say(`unpacking ${set.name}`);
  await Deno.mkdir(target, { recursive: true });
  for (const deb of debs) {
    const path = `${folder}/archives/${deb.file}`;
    await demand(`unpack ${deb.file}`, "dpkg-deb", ["-x", path, target]);
  }
  for (const deb of debs) await Deno.remove(`${folder}/archives/${deb.file}`);
}
