/** All that a run measured, as JSON. */
import type { Heap, Measured } from "../micro/report.ts";
import type { Sample } from "../net/results.ts";

export interface Figures {
  readonly about: Readonly<Record<string, string | number>>;
  /** By name; vuelo is the first. */
  readonly backends: Readonly<Record<string, string>>;
  readonly micro: readonly Measured[];
  readonly heap: readonly Heap[];
  readonly samples: readonly Sample[];
}

/** What it was measured on. */
export function about(seconds: number, rounds: number): Figures["about"] {
  const model = /^model name\s*:\s*(.*)$/m.exec(Deno.readTextFileSync("/proc/cpuinfo"));
  return {
    command: commandLine(),
    date: new Date().toISOString(),
    deno: Deno.version.deno,
    v8: Deno.version.v8,
    kernel: Deno.osRelease(),
    arch: Deno.build.arch,
    processor: model?.[1] ?? "unknown",
    cpus: navigator.hardwareConcurrency,
    seconds,
    rounds,
  };
}

/** How this run was started, less what is of this machine. */
function commandLine(): string {
  const words = Deno.args.map((word) => /^[\w./=,:-]+$/.test(word) ? word : `'${word}'`);
  const compiled = Deno.env.has("VUELO_BIN") ? "VUELO_BIN=$PWD/dist/vuelo " : "";
  return `${compiled}deno task bench ${words.join(" ")}`.trim();
}
