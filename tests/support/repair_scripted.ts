/** Starts the helper of repair_worker.ts. */
import type { RepairLink } from "../../src/repair/link.ts";
import { until } from "./lab_process.ts";
import type { Orders, Report } from "./repair_worker.ts";

/** A helper that was told what to do. */
export class ScriptedHelper {
  /** What it did, when it has ended. */
  readonly report: Promise<Report>;
  readonly #worker: Worker;

  constructor(orders: Orders) {
    const url = new URL("repair_worker.ts", import.meta.url);
    this.#worker = new Worker(url, { type: "module" });
    this.report = new Promise((resolve, reject) => {
      this.#worker.onmessage = ({ data }: MessageEvent<Report>) => resolve(data);
      this.#worker.onerror = (event) => reject(new Error(event.message));
    });
    this.#worker.postMessage(orders);
  }

  /** Starts a helper for `link` and waits until it is connected. */
  static async connected(
    link: RepairLink,
    orders: Omit<Orders, "path">,
  ): Promise<ScriptedHelper> {
    const helper = new ScriptedHelper({ path: link.path, ...orders });
    await until("the helper is connected", () => link.available);
    return helper;
  }

  /** Waits for its end. */
  async end(): Promise<Report> {
    const report = await this.report;
    this.#worker.terminate();
    return report;
  }
}
