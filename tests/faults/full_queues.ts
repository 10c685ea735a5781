/** Connections that move in the middle of what they do, with all that a move can carry. */
import { deafen, undeafen } from "../../ffi/socket_filter.ts";
import { HostListener, type HostTcp } from "../support/host_tcp.ts";
import { type GuestTcp, pattern } from "./guest_tcp.ts";
import { type How, leaveAndArrive } from "./move.ts";
import { Failed } from "./outcome.ts";
import type { Life } from "./scenario.ts";

/** More than fits into a new socket, and some of it more than its peer has room for. */
const UP = 100_000;
const DOWN = 20_000;
const TURNS = 30;

/** A connection whose guest acknowledges nothing until it has moved. */
interface Full {
  readonly flow: GuestTcp;
  readonly host: HostTcp;
  /** Done before it moves, so that something waits in each queue. */
  fill(): void;
  /** What comes after it has moved. */
  goOn(): void;
  /** All is as it should be. */
  done(): boolean;
}

/** The host's end takes nothing for a while, and the guest asks whether it is there. */
function unheard(flow: GuestTcp, host: HostTcp): Full {
  return {
    flow,
    host,
    fill() {
      flow.probe();
      deafen(host.fd);
      flow.send(pattern(UP));
      host.send(pattern(DOWN));
    },
    goOn() {
      undeafen(host.fd);
      host.send(pattern(1, DOWN));
    },
    done: () => flow.back.length === DOWN + 1,
  };
}

/** The host has ended its direction. */
function halfClosed(flow: GuestTcp, host: HostTcp): Full {
  return {
    flow,
    host,
    fill() {
      host.send(pattern(DOWN));
      host.shutdown();
    },
    goOn() {},
    done: () => flow.back.length === DOWN && flow.ended,
  };
}

/** Both ends have ended it, but the guest has not taken all. */
function closed(flow: GuestTcp, host: HostTcp): Full {
  const half = halfClosed(flow, host);
  return {
    ...half,
    fill() {
      flow.finish();
      half.fill();
    },
  };
}

/** Leaves and arrives with full queues. */
export function fullMove(life: Life, how: How = {}): void {
  const { world } = life;
  let all: Full[] = [];
  const end = (full: Full) => {
    full.host.close();
    world.tcp.delete(full.flow.port);
    all = all.filter((other) => other !== full);
  };
  try {
    life.step("TCP before a move", () => {
      all.forEach(end);
      const listener = new HostListener(world.loopback);
      try {
        for (const kind of [unheard, halfClosed, closed]) {
          all.push(kind(...life.open(listener)));
        }
      } finally {
        listener.close();
      }
      for (const { flow } of all) flow.mute = true;
      for (const full of all) full.fill();
      world.turns(TURNS);
      if (all.some(({ flow }) => flow.reset)) throw new Failed("reset");
    });
    life.step("move", () => {
      world.callHelper();
      leaveAndArrive(world, how);
    });
    for (const { flow } of all) flow.mute = false;
    life.step("TCP after a move", () => {
      for (const full of all) {
        full.goOn();
        world.until("what was queued", () => full.flow.reset || full.done());
        end(full);
        if (full.flow.reset) throw new Failed("reset");
      }
    });
  } finally {
    all.forEach(end);
  }
}
