/** What a SYN that comes to nothing costs: floods of them take no more from other flows. */
import { assertEquals } from "@std/assert";
import { AF_INET, AF_INET6, supportsPeekOffset } from "../../../ffi/socket.ts";
import { LOOPBACK4, LOOPBACK6 } from "../../../tests/support/host_tcp.ts";
import { countSynCalls } from "../../../tests/support/syn_calls.ts";
import { inWorld, pattern } from "../../../tests/support/tcp_world.ts";

const SYNS = 64;

for (const six of [false, true]) {
  const family = six ? "IPv6" : "IPv4";

  for (const refused of [false, true]) {
    const what = `${family}, ${refused ? "refused" : "not answered"}`;

    Deno.test(`the socket of a SYN that came to nothing serves the next: ${what}`, async () => {
      const calls = await countSynCalls({ six, refused, atOnce: 8, syns: SYNS });
      // SO_PEEK_OFF is set anew, where there is that.
      const setsockopt = supportsPeekOffset(six ? AF_INET6 : AF_INET) ? SYNS : 0;
      assertEquals(calls, { socket: 0, setsockopt, connect: 2 * SYNS, close: 0 });
    });
  }

  Deno.test(`${family}: a socket that cannot serve again is closed`, async () => {
    const task = { six, refused: true, fails: true, atOnce: 8, syns: SYNS };
    assertEquals((await countSynCalls(task)).close, SYNS);
  });

  Deno.test(`${family}: a socket that may be bound serves nobody else`, async () => {
    const task = { six, refused: true, outbound: true, atOnce: 1, syns: SYNS };
    const calls = await countSynCalls(task);
    assertEquals([calls.connect, calls.close], [SYNS, SYNS]);
  });

  inWorld(`${family}: a connection over a socket that was refused before`, (world) => {
    const closed = world.listen(six ? LOOPBACK6 : LOOPBACK4);
    closed.close();
    for (let i = 0; i < 2; i++) { // the first leaves more sockets than its own
      const refused = world.guest(closed.port, { six });
      refused.in("S");
      world.until("RST", () => refused.sent.length > 0);
    }
    const { guest, host } = world.connect({ six });
    for (let i = 0; i < 3; i++) { // each is read while those before are still there
      host.send(pattern(5000, 5000 * i));
      world.until("data", () => guest.received.length === 5000 * (i + 1));
    }
    assertEquals(guest.received, [...pattern(15_000)]);
    guest.drain();
    guest.in("PA", { data: pattern(100) });
    assertEquals(host.receive(), pattern(100));
    guest.finish(host);
  });
}
