/** The fuzzer itself: it finds what is planted, and counts without changing the code. */
import { assert, assertEquals } from "@std/assert";
import { Coverage } from "./engine/coverage.ts";
import { minimized } from "./engine/corpus.ts";
import { Fuzzer, shortened, signatureOf } from "./engine/fuzzer.ts";
import { instrument } from "./engine/instrument.ts";
import { encodings } from "./engine/mutate.ts";
import { Random } from "./engine/random.ts";

let modules = 0;

/** The default export of a module's text, with or without counters. */
// deno-lint-ignore no-explicit-any
async function load(text: string): Promise<any> {
  const url = `data:application/typescript,${encodeURIComponent(text)}#${modules++}`;
  return (await import(url)).default;
}

const DEFECT = `
export default function read(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length < 12 || view.getUint32(0) !== 0xb105f00d) return;
  const words = view.getUint16(4, true);
  for (let i = 0; i < words; i++) {
    if (8 + 2 * i + 2 > bytes.length) return;
    if (view.getUint16(8 + 2 * i) === 0x7777 && i === 5) throw new Error("planted");
  }
}`;

Deno.test("a defect behind a magic number, a length and a loop is found", async () => {
  const run = await load(instrument(DEFECT, "defect.ts"));
  const fuzzer = new Fuzzer({ maxLength: 64, seeds: [], run }, 1);
  for (let i = 0; i < 4000 && fuzzer.findings.length === 0; i++) fuzzer.step();
  assertEquals(fuzzer.findings.length, 1);
  const [{ signature, input }] = fuzzer.findings;
  assert(signature.startsWith("Error: planted"), signature);
  assertEquals(input.length, 20, "nothing is left that is not needed");
  assertEquals([...input.slice(0, 4)], [0xb1, 0x05, 0xf0, 0x0d]);
  // Without counters the code gives no hint.
  const blind = new Fuzzer({ maxLength: 64, seeds: [], run: await load(DEFECT) }, 1);
  while (blind.executions < fuzzer.executions) blind.step();
  assertEquals(blind.findings, []);
});

Deno.test("the same seed does the same", async () => {
  const run = await load(instrument(DEFECT, "again.ts"));
  const [one, two] = [1, 2].map(() => {
    const fuzzer = new Fuzzer({ maxLength: 64, seeds: [], run }, 7);
    for (let i = 0; i < 50; i++) fuzzer.step();
    return { inputs: fuzzer.inputs(), executions: fuzzer.executions };
  });
  assertEquals(one, two);
});

/** One of each form that counters are put into. */
const FORMS = `
const list = (n: number) => Array.from({ length: n }, (_, i) => i);
class Shape { #n = 1; static s = (() => 5)(); constructor(readonly k: number = 2 || 3) {}
  get n(): number { return this.#n; } set n(v) { this.#n = v > 2 ? v : -v; }
  *[Symbol.iterator]() { for (const x of list(this.k)) if (x & 1) yield x; else continue; } }
export default function all(n: number): unknown[] {
  const out: unknown[] = [];
  if (n === 1) out.push("a"); else if (n !== 2) out.push("b" as string)
  if (n > 2) if (n > 3) out.push("c"); else out.push("d");
  label: for (let i = 0; i < n; i++) for (let j = 0; ; j++) {
    if (j === i) continue label;
    if (i * j === 6) break label;
    out.push(i * 10 + j);
  }
  let w = 3; do w--; while (w > 0 && (w !== 1 || n === 3)); while (w < 2) w++;
  for (const key in { x: 1, y: 2 }) out.push(key);
  switch (n) { case 0: case 1: out.push("e"); case 2: { out.push("f"); break; }
    default: out.push("g"); }
  try { if ((n & 1) === 1) throw new RangeError("odd"); out.push("even"); }
  catch { out.push("caught"); } finally { out.push("end"); }
  const o: { v?: number | null } = {}; o.v ??= n === 4 ? null : 7; o.v ||= 8;
  const shape = new Shape(n); shape.n = n satisfies number;
  out.push(o.v ?? "nothing", ...shape, shape.n, Shape.s, ((): number => ({ z: n }).z)());
  out.push(typeof n === "number", (n as unknown) === "1", !(n === 3) !== (n === 4));
  out.push(n === 1 && n !== 2 || n === 5, 1n === BigInt(n), n! % 2 === 0 ? [1] : [2, 3]);
  return out;
}`;

Deno.test("counters change neither what code does nor its lines", async () => {
  const counted = instrument(FORMS, "forms.ts");
  const [plain, with_] = [await load(FORMS), await load(counted)];
  for (let n = 0; n < 8; n++) assertEquals(with_(n), plain(n));
  assertEquals(counted.split("\n").length, FORMS.split("\n").length);
});

Deno.test("a branch counts once, then how often it is taken", async () => {
  const text = "export default (n: number) => { for (let i = 0; i < n; i++) void i; };";
  const run = await load(instrument(text, "loop.ts"));
  const coverage = new Coverage();
  const news = (n: number) => {
    coverage.clear();
    run(n);
    return coverage.collect();
  };
  assertEquals([0, 0, 1, 1, 2, 3, 4, 7, 8, 9, 200].map(news), [
    ...[2, 0, 2, 0, 1, 1, 1, 0, 1, 0, 1],
  ]);
  assertEquals(coverage.edges, 2);
});

Deno.test("a small corpus reaches what the large one does", () => {
  const input = (length: number, ...features: number[]) => ({
    data: new Uint8Array(length),
    features: features.map((feature) => 1 << 16 | feature),
  });
  const inputs = [input(9, 1, 2, 3), input(3, 1), input(4, 2), input(5, 1, 2)];
  assertEquals(minimized(inputs, 100).map(({ length }) => length), [3, 4, 9]);
});

Deno.test("inputs are cut down while they show the same", () => {
  const whole = Uint8Array.from({ length: 300 }, (_, i) => i % 256);
  const least = shortened(whole, 4000, (bytes) => bytes.includes(77) && bytes[0] === 0);
  assertEquals([...least], [0, 77]);
});

Deno.test("numbers are looked for in each form they may have", () => {
  const forms = (value: number) => encodings(value).map((bytes) => bytes.toHex());
  assertEquals(forms(1).slice(0, 3), ["01", "0001", "0100"]);
  assertEquals(forms(-2).slice(0, 2), ["fe", "fffe"]);
  assertEquals(forms(0x800).slice(0, 3), ["0800", "0008", "00000800"]);
});

Deno.test("defects are told apart by what is thrown and where", () => {
  const at = (n: number) => signatureOf(new RangeError(`offset ${n}`));
  assertEquals(at(1), at(22));
  assert(at(1) !== signatureOf(new RangeError("offset 1")));
});

Deno.test("a seed gives the same numbers, spread over the range", () => {
  const numbers = (seed: number) => {
    const random = new Random(seed);
    return Array.from({ length: 1000 }, () => random.below(10));
  };
  assertEquals(numbers(1), numbers(1));
  assert(numbers(1).join() !== numbers(2).join());
  assertEquals(new Set(numbers(3)).size, 10);
});
