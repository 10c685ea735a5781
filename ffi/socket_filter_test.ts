import { assert, assertEquals } from "@std/assert";
import {
  HostListener,
  HostTcp,
  LOOPBACK4,
  LOOPBACK6,
} from "../tests/support/host_tcp.ts";
import { deafen, demandHops, undeafen } from "./socket_filter.ts";

const WAYS = [
  { name: "by a filter", deaf: deafen, hears: undeafen },
  // Hosts where a filter needs rights cannot be had in a test.
  {
    name: "by hops",
    deaf: (fd: number) => demandHops(fd, 255),
    hears: (fd: number) => demandHops(fd, 0),
  },
];

for (const address of [LOOPBACK4, LOOPBACK6]) {
  const family = address === LOOPBACK4 ? "IPv4" : "IPv6";
  for (const { name, deaf, hears } of WAYS) {
    Deno.test(`a socket deaf ${name} takes nothing until it hears again, ${family}`, async () => {
      const listener = new HostListener(address);
      const near = HostTcp.connect(address, listener.port);
      const far = await soon(() => listener.accept());
      assertEquals(deaf(near.fd), 0);
      far.send(new Uint8Array([1, 2, 3]));
      // What goes the other way is delivered on loopback before send() returns.
      near.send(new Uint8Array([4]));
      assertEquals(far.receive(), new Uint8Array([4]));
      assertEquals(near.receive(), new Uint8Array(0));
      assertEquals(hears(near.fd), 0);
      const came = await soon(() => {
        const got = near.receive();
        assert(got instanceof Uint8Array);
        return got.length > 0 ? got : undefined;
      });
      assertEquals(came, new Uint8Array([1, 2, 3]));
      for (const socket of [near, far, listener]) socket.close();
    });
    Deno.test(`a listening socket deaf ${name} lets connections wait, ${family}`, async () => {
      const listener = new HostListener(address);
      assertEquals(deaf(listener.fd), 0);
      const near = HostTcp.connect(address, listener.port);
      assertEquals([listener.accept(), near.error], [undefined, 0]);
      assertEquals(hears(listener.fd), 0);
      const far = await soon(() => listener.accept());
      for (const socket of [near, far, listener]) socket.close();
    });
  }
}

/** What comes sooner or later: TCP sends again what was dropped. */
async function soon<T>(look: () => T | undefined): Promise<T> {
  for (;;) {
    const found = look();
    if (found !== undefined) return found;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
