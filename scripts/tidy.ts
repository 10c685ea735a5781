/**
 * Checks what no compiler checks: imports point one way between the layers, only ffi/
 * opens libraries, no BigInt where packets pass, and files stay small. Exit status 1 and
 * one line per finding.
 */

/** A module may import modules of its own or a lower layer. */
const LAYERS: readonly { readonly prefix: string; readonly layer: number }[] = [
  { prefix: "ffi/", layer: 0 },
  { prefix: "src/std/", layer: 0 },
  { prefix: "src/errors.ts", layer: 0 },
  { prefix: "src/log", layer: 0 },
  { prefix: "src/log_file.ts", layer: 0 },
  { prefix: "src/config.ts", layer: 0 },
  { prefix: "src/wire/", layer: 1 },
  { prefix: "src/virtio/", layer: 2 },
  { prefix: "src/vhost_user/", layer: 2 },
  { prefix: "src/mesh/", layer: 2 },
  { prefix: "src/host/", layer: 2 },
  { prefix: "src/repair/", layer: 2 },
  { prefix: "src/sandbox/", layer: 2 },
  { prefix: "src/services/", layer: 3 },
  { prefix: "src/flow/", layer: 3 },
  { prefix: "src/", layer: 4 },
  { prefix: "main.ts", layer: 5 },
  { prefix: "tests/", layer: 6 },
  { prefix: "scripts/", layer: 6 },
];
const MAX_LINES = 500;
const NATIVE = /\bDeno\.(dlopen|UnsafePointer|UnsafePointerView|UnsafeCallback)\b/;
/** Where every packet passes: addresses and offsets are doubles there. */
const HOT = /^src\/(virtio|flow|mesh)\//;
const BIG = /\bBigInt\b|\bBig(Int|Uint)64|\b\d[\d_]*n\b|"(bigint|i64|u64|usize|isize)"/;

function layerOf(path: string): number {
  return LAYERS.find((entry) => path.startsWith(entry.prefix))?.layer ?? 0;
}

function* sources(folder: string): Generator<string> {
  for (const entry of Deno.readDirSync(folder === "" ? "." : folder)) {
    const path = folder + entry.name;
    if (entry.isDirectory) {
      if (!/^(\.|dist|node_modules)/.test(entry.name)) yield* sources(path + "/");
    } else if (path.endsWith(".ts")) yield path;
  }
}

/** Resolves "../wire/arp.ts" against "src/services/arp.ts". */
function resolve(from: string, specifier: string): string {
  return new URL(specifier, `file:///${from}`).pathname.slice(1);
}

function inspect(path: string): string[] {
  const text = Deno.readTextFileSync(path);
  const findings: string[] = [];
  const isTest = path.endsWith("_test.ts");
  for (const [, specifier] of text.matchAll(/\bfrom\s+"(\.{1,2}\/[^"]+)"/g)) {
    const target = resolve(path, specifier);
    if (!isTest && layerOf(target) > layerOf(path)) {
      findings.push(`${path}: imports ${target}, which is of a higher layer`);
    }
    if (path.startsWith("src/wire/") && !isTest && target.startsWith("ffi/")) {
      findings.push(`${path}: a wire format imports ${target}`);
    }
  }
  if (!path.startsWith("ffi/") && !path.startsWith("tests/") && NATIVE.test(text)) {
    if (path !== "scripts/tidy.ts") {
      findings.push(`${path}: only ffi/ may call native code`);
    }
  }
  if (HOT.test(path) && !isTest && BIG.test(text)) {
    findings.push(`${path}: a BigInt where packets pass`);
  }
  const lines = text.split("\n").length - 1;
  if (lines > MAX_LINES) findings.push(`${path}: ${lines} lines, more than ${MAX_LINES}`);
  return findings;
}

const findings = [...sources("")].flatMap(inspect);
for (const finding of findings) console.error(finding);
if (findings.length > 0) Deno.exit(1);
