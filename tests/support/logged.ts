/** What is logged while something runs. */
import { log } from "../../src/log.ts";
import type { LogLevel } from "../../src/config.ts";

/** Runs `body`; returns the lines of the log meanwhile, each with its level before it. */
export function logged(body: () => void, level: LogLevel = "info"): string[] {
  const lines: string[] = [];
  log.divert(level, (level, message) => void lines.push(`${level}: ${message}`));
  try {
    body();
  } finally {
    log.configure({ level: "info", size: 0 });
  }
  return lines;
}
