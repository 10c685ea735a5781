/** Frontends that do what the specification allows, but hypervisors seldom do. */
import { close, eventfdCreate } from "../../ffi/event.ts";
import { memfdCreate } from "../../ffi/memory.ts";
import { createPipe } from "../../ffi/pipe.ts";
import { Ask, u64 } from "../support/frontend.ts";
import type { Life } from "./scenario.ts";

const TURNS = 5;
const PIECE = 8;
const WHOLE = 40;

const ring = (index: number) => new Uint8Array(u64(index));

/** A second one comes while there is one, and a third in place of the first. */
export function secondFrontend(life: Life): void {
  const { world } = life;
  life.step("second frontend", () => {
    const other = world.connectAnother();
    world.turns(TURNS);
    other.close();
    world.connect();
    world.renew();
    world.start();
  });
}

/** Pipes in place of eventfds, a file, which is refused, and a channel for requests. */
export function oddDescriptors(life: Life): void {
  const { world } = life;
  life.step("odd descriptors", () => {
    const [reading, writing] = createPipe();
    const file = memfdCreate("file", 1);
    const channels = [eventfdCreate(), eventfdCreate()];
    try {
      world.do(Ask.SET_VRING_CALL, ring(0), [writing]);
      const { payload } = world.peer!.ask(Ask.SET_VRING_ERR, ring(0), [file]);
      if (payload[0] === 0) throw new Error("a file is taken for an eventfd");
      for (const fd of channels) {
        world.do(Ask.SET_BACKEND_REQ_FD, new Uint8Array(0), [fd]);
      }
    } finally {
      for (const fd of [reading, writing, file, ...channels]) close(fd);
    }
  });
}

/** One hangs up in the middle of a message that has a descriptor. */
export function halfMessage(life: Life): void {
  const { world } = life;
  life.step("half a message", () => {
    const fd = eventfdCreate();
    try {
      world.peer!.tell(Ask.SET_MEM_TABLE, new Uint8Array(PIECE), [fd], WHOLE);
      world.turns(TURNS);
    } finally {
      close(fd);
      world.hangUp();
    }
  });
  life.connect();
}
