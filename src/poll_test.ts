import { assertEquals } from "@std/assert";
import { Poller } from "./poll.ts";

const BOUND = 0.1;
/** What one look costs. */
const LOOK = 0.01;

/** A clock that only waiting moves, and events after given gaps of time. */
class World {
  now = 0;
  interrupted = false;
  /** How long each wait was meant to be. */
  readonly waits: number[] = [];
  #next: number;

  constructor(readonly gaps: number[]) {
    this.#next = gaps.shift() ?? Infinity;
  }

  wait(timeout: number): number {
    this.waits.push(timeout);
    const end = timeout < 0 ? Infinity : this.now + timeout;
    if (this.#next > end) {
      this.now = end === this.now ? this.now + LOOK : end;
      return 0;
    }
    this.now = Math.max(this.now + LOOK, this.#next);
    this.#next = this.now + (this.gaps.shift() ?? Infinity);
    return 1;
  }

  poller(bound = BOUND): Poller {
    return new Poller(this, bound, () => this.now);
  }
}

const looks = (waits: readonly number[]) => waits.filter((wait) => wait === 0).length;

Deno.test("an idle guest costs one wait a turn", () => {
  const world = new World(Array(1000).fill(20));
  const poller = world.poller();
  for (let turn = 0; turn < 1000; turn++) assertEquals(poller.wait(1000, turn), 1);
  assertEquals(world.waits, Array(1000).fill(1000));
});

Deno.test("turns without events cost one wait each", () => {
  const world = new World([]);
  const poller = world.poller();
  for (let turn = 0; turn < 100; turn++) assertEquals(poller.wait(0.05, 0), 0);
  assertEquals(world.waits.length, 100);
});

Deno.test("after four short sleeps nothing sleeps while events go on to come", () => {
  const world = new World(Array(100).fill(0.05));
  const poller = world.poller();
  for (let turn = 0; turn < 100; turn++) assertEquals(poller.wait(1000, turn), 1);
  assertEquals(world.waits.filter((wait) => wait > 0), Array(4).fill(1000));
});

Deno.test("when they end, the thread looks as long as the bound, once", () => {
  const world = new World([...Array(10).fill(0.05), 500, 20, 20]);
  const poller = world.poller();
  for (let turn = 0; turn < 10; turn++) poller.wait(1000, turn);
  world.waits.length = 0;
  assertEquals(poller.wait(1000, 10), 1);
  assertEquals(looks(world.waits), Math.round(BOUND / LOOK));
  assertEquals(world.waits.at(-1), 1000 - BOUND, "then sleeps the rest");
  world.waits.length = 0;
  for (let turn = 0; turn < 2; turn++) assertEquals(poller.wait(1000, 11), 1);
  assertEquals(world.waits, [1000, 1000]);
});

Deno.test("frames in bulk are slept for, however dense", () => {
  const world = new World(Array(100).fill(0.02));
  const poller = world.poller();
  for (let turn = 0; turn < 100; turn++) assertEquals(poller.wait(1000, turn * 40), 1);
  assertEquals(looks(world.waits), 0);
});

Deno.test("a wait without limit, and one that a timer ends", () => {
  const world = new World([...Array(10).fill(0.05), 7]);
  const poller = world.poller();
  for (let turn = 0; turn < 10; turn++) poller.wait(-1, turn);
  assertEquals(poller.wait(0.03, 10), 0, "the timer's time");
  assertEquals(poller.wait(-1, 10), 1);
  assertEquals(world.waits.at(-1), -1);
});

Deno.test("a signal ends looking", () => {
  const world = new World(Array(5).fill(0.05));
  const poller = world.poller();
  for (let turn = 0; turn < 5; turn++) poller.wait(1000, turn);
  world.interrupted = true;
  world.waits.length = 0;
  assertEquals(poller.wait(1000, 5), 0);
  assertEquals(world.waits, [0]);
});

Deno.test("off is off", () => {
  const world = new World(Array(50).fill(0.001));
  const poller = world.poller(0);
  for (let turn = 0; turn < 50; turn++) poller.wait(1000, turn);
  assertEquals(world.waits, Array(50).fill(1000));
});
