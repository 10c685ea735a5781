/** A ring whose contents make no sense. */
import { eventfdWrite } from "../../ffi/event.ts";
import { NO_FD, type SessionLog, type Vring } from "../vhost_user/backend.ts";

/** A ring's indexes cannot be: no more of it is read, and the frontend is told. */
export function reportBroken(
  queue: number,
  ring: Vring | undefined,
  log: SessionLog,
): void {
  log.warn(
    `queue ${queue}: an index, a descriptor number or a chain goes beyond the ring's ` +
      `${ring?.size ?? 0} entries; the queue stands still until the driver resets it`,
  );
  if (ring !== undefined && ring.errFd !== NO_FD) eventfdWrite(ring.errFd);
}
