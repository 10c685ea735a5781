/** A guest without flows, which writes down what a migration asks of it. */
import type { Movable } from "../../src/migrate/movable.ts";
import type { MovedState } from "../../src/wire/state/model.ts";

/** The state of a guest that was never there, with a MAC address to know it by. */
export function emptyState(mac: number): MovedState {
  const none = new Uint8Array(16);
  return {
    device: {
      mac: Uint8Array.of(2, 0, 0, 0, 0, mac),
      address4: none,
      address6: none,
      linkLocal6: none,
      mtu: 1500,
      featuresLo: 0,
      featuresHi: 1,
      lease4: none,
      lease4Prefix: 0,
      lease6: none,
      lease6Prefix: 0,
      ourMac: Uint8Array.of(2, 0, 0, 0, 1, 0),
      savedAt: 1_700_000_000,
    },
    entries: new Int32Array(0),
    tcp: [],
    udp: [],
    ping: [],
    rules: [],
  };
}

export class FakeMovable implements Movable {
  /** What was asked since the last {@link take}. */
  calls: string[] = [];
  /** Error numbers that calls return, by name. */
  readonly failing = new Map<string, number>();
  /** A slow helper has frozen something. */
  late = false;
  /** The call that finds no memory. */
  throwing = "";
  state: MovedState = emptyState(7);
  restored: MovedState | undefined;

  take(): string[] {
    return this.calls.splice(0);
  }
  #call(name: string): number {
    this.calls.push(name);
    if (name === this.throwing) throw new RangeError("Array buffer allocation failed");
    return this.failing.get(name) ?? 0;
  }
  freeze(): number {
    return this.#call("freeze");
  }
  save(): MovedState {
    this.#call("save");
    return this.state;
  }
  restore(state: MovedState): number {
    this.restored = state;
    return this.#call("restore");
  }
  thaw(): number {
    return this.#call("thaw");
  }
  catchLate(): boolean {
    return this.late && this.#call("catchLate") === 0;
  }
  discard(): void {
    this.#call("discard");
  }
  reset(): void {
    this.#call("reset");
  }
}
