/** For tests that have thousands of things refused: only errors are logged meanwhile. */
import { log } from "../../src/log.ts";

/** Runs `body`, in which warnings are not shown. */
export function quietly(body: () => void): () => void {
  return () => {
    log.configure({ level: "error", size: 0 });
    try {
      body();
    } finally {
      log.configure({ level: "info", size: 0 });
    }
  };
}
