/** QEMU's side of a migration: its monitor's events, and its trace of vhost-user. */
import type { Message } from "./lab_json.ts";
import { until } from "./lab_process.ts";
import type { Guest } from "./qemu.ts";

/** Options of QEMU that make it trace the vhost-user messages it sends and gets. */
export const TRACE = [
  "-msg",
  "timestamp=on",
  "-trace",
  "vhost_user_write",
  "-trace",
  "vhost_user_read",
];

const SET_DEVICE_STATE_FD = 42;
const CHECK_DEVICE_STATE = 43;

/** States in which a migration has come to its end. */
const ENDS = ["completed", "failed", "cancelled"];

/**
 * How long the guest may stand still while the last of its memory is copied, in ms. At
 * first little, so that what is measured is the back-end; a guest that writes faster than
 * that gets more.
 */
const DOWNTIME_LIMITS = [30, 300, 3000] as const;
const PATIENCE = 2000;

/** What query-migrate says at the end; times are in milliseconds. */
export interface QemuFigures {
  readonly status: string;
  readonly error?: string;
  readonly downtime?: number;
  readonly total?: number;
  readonly ramBytes?: number;
}

/** The events of a QEMU's monitor since this was made. */
export class MonitorEvents {
  readonly names: string[] = [];
  readonly #stop: () => void;
  readonly #waiting = new Map<string, (() => void)[]>();

  constructor(readonly guest: Guest) {
    this.#stop = guest.monitor.listen((event) => this.#take(event));
  }

  /** The latest event. */
  get last(): string | undefined {
    return this.names.at(-1);
  }

  /** Calls `action` as soon as the event `name` comes. */
  on(name: string, action: () => void): void {
    this.#waiting.set(name, [...(this.#waiting.get(name) ?? []), action]);
  }

  /** Whether `name` came: an event such as STOP, or the status of the migration. */
  has(name: string): boolean {
    return this.names.includes(name);
  }

  /** Whether the migration has come to an end. */
  get isOver(): boolean {
    return this.guest.process.ended || ENDS.some((name) => this.has(name));
  }

  /** Waits until one of `names` came or QEMU ended. */
  async wait(...names: string[]): Promise<void> {
    await until(`QEMU says ${names.join(" or ")}`, () => {
      return this.guest.process.ended || names.some((name) => this.has(name));
    }, 90_000);
  }

  /** Waits until the migration has come to an end, or QEMU has. */
  async ended(): Promise<void> {
    const timers = DOWNTIME_LIMITS.slice(1).map((limit, index) =>
      setTimeout(() => {
        if (this.guest.stopped || this.has("STOP")) return;
        const change = { "downtime-limit": limit };
        this.guest.qmp("migrate-set-parameters", change).catch(() => {});
      }, PATIENCE * (index + 1))
    );
    await this.wait(...ENDS).finally(() => timers.forEach(clearTimeout));
  }

  close(): void {
    this.#stop();
  }

  #take(event: Message): void {
    if (typeof event.event !== "string") return;
    const data = event.data as { status?: string } | undefined;
    const name = event.event === "MIGRATION" ? data?.status ?? "" : event.event;
    this.names.push(name);
    for (const action of this.#waiting.get(name) ?? []) action();
  }
}

/** How migrations differ. */
export interface SetUpOptions {
  readonly capabilities?: readonly string[];
  readonly withoutReturnPath?: boolean;
  readonly bandwidth?: number;
}

/** Sets what every migration here has in common. */
export async function setUp(guest: Guest, options: SetUpOptions): Promise<void> {
  const wanted = ["events", ...(options.capabilities ?? [])];
  if (!options.withoutReturnPath) wanted.push("return-path");
  const all = ["events", "return-path", "pause-before-switchover"];
  await guest.qmp("migrate-set-capabilities", {
    capabilities: all.map((name) => ({
      capability: name,
      state: wanted.includes(name),
    })),
  });
  await guest.qmp("migrate-set-parameters", {
    "max-bandwidth": options.bandwidth ?? 8 * 2 ** 30,
    "downtime-limit": DOWNTIME_LIMITS[0],
  });
}

/** What the source says of a migration that came to its end. */
export async function figures(guest: Guest): Promise<QemuFigures> {
  const said = await guest.qmp("query-migrate") as Message;
  return {
    status: String(said.status),
    error: said["error-desc"] as string | undefined,
    downtime: said.downtime as number | undefined,
    total: said["total-time"] as number | undefined,
    ramBytes: (said.ram as Message | undefined)?.transferred as number | undefined,
  };
}

/**
 * Milliseconds from SET_DEVICE_STATE_FD to the reply of CHECK_DEVICE_STATE in a trace, of
 * the last transfer in it; undefined if there was none.
 */
export function transferTime(trace: string): number | undefined {
  let start: number | undefined;
  let end: number | undefined;
  const line = /^\d+@(\d+)\.(\d+):vhost_user_(read|write) req:(\d+)/gm;
  for (const [, seconds, micros, kind, request] of trace.matchAll(line)) {
    // Milliseconds, in which a time of day keeps all its digits.
    const time = (Number(seconds) % 86400) * 1000 + Number(micros) / 1000;
    if (kind === "write" && Number(request) === SET_DEVICE_STATE_FD) start = time;
    if (kind === "read" && Number(request) === CHECK_DEVICE_STATE) end = time;
  }
  return start === undefined || end === undefined ? undefined : end - start;
}
