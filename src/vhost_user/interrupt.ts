/** Telling the other side: a driver of used buffers, a frontend of what is wrong. */
import { eventfdWrite } from "../../ffi/event.ts";
import { takesNow } from "../../ffi/pipe.ts";
import { NO_FD, type Vring } from "./backend.ts";

/**
 * Notifies the driver, if the frontend wants that. Never waits, unless the frontend
 * changes the descriptor's flags after it gave it, and then harms its own guest alone.
 */
export function interrupt(ring: Vring): void {
  if (ring.callFd === NO_FD) return;
  if (ring.callWaits === true) signal(ring.callFd);
  else eventfdWrite(ring.callFd);
}

/** Writes to a frontend's counter unless that would wait: it is full then. */
export function signal(fd: number): void {
  if (fd !== NO_FD && takesNow(fd)) eventfdWrite(fd);
}
