/** Frontends that come and go at a vuelo without a guest, good ones and others. */
import { connectUnix, send } from "../../ffi/unix_socket.ts";
import { close } from "../../ffi/event.ts";
import { parseAddress } from "../../src/wire/address.ts";
import { askArp, Dispatcher, type FarEnd, GoodFlow } from "../support/good_flow.ts";
import { RawGuest } from "../support/raw_guest.ts";

let port = 20_000;

/** A guest that opens connections, echoes over them, and ends some of them well. */
async function goodFrontend(
  path: string,
  far: FarEnd | undefined,
  round: number,
): Promise<void> {
  const guest = await arrived(path);
  const left: GoodFlow[] = [];
  try {
    const to = new Dispatcher(guest);
    await askArp(to, far?.ends);
    for (let i = 0; i < 4; i++) {
      port = port === 60_000 ? 20_000 : port + 1;
      const flow = new GoodFlow(to, port, round * 0x1234_567 + i, far);
      await flow.open();
      for (let trip = 0; trip < 5; trip++) await flow.roundTrip(1400);
      // The last two are left to the frontend's end.
      if (i < 2) await flow.close();
      else left.push(flow);
    }
  } finally {
    guest.close();
    for (const flow of left) flow.abandon();
  }
}

/** Connects and starts; again, where the last frontend's end was not noticed yet. */
async function arrived(path: string): Promise<RawGuest> {
  for (let tries = 0;; tries++) {
    const guest = new RawGuest(path);
    try {
      await guest.start();
      return guest;
    } catch (error) {
      guest.close();
      if (tries === 20) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

/** Connects, and goes again without a word or in the middle of one. */
function badFrontend(path: string, bytes: number): void {
  const fd = connectUnix(path);
  if (bytes > 0) send(fd, new Uint8Array(bytes));
  close(fd);
}

/**
 * `count` frontends that serve a guest, and as many that do not get that far.
 *
 * @param far who echoes, unless that is this process
 */
export async function frontends(
  path: string,
  far: FarEnd | undefined,
  count: number,
): Promise<void> {
  for (let i = 0; i < count; i++) {
    badFrontend(path, i % 13);
    await goodFrontend(path, far, i);
  }
}

/** Addresses as a guest behind vuelo in the lab has them. */
export function labFar(family: { host: string; gateway: string }, port: number): FarEnd {
  const from = parseAddress(family.host) as Uint8Array;
  const to = parseAddress(family.gateway) as Uint8Array;
  return { ends: { from, to }, port };
}
