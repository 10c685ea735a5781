/**
 * Floods a forwarded port until it is ended: `tcp` opens connections without end, `udp`
 * sends datagrams as fast as it can. Arguments: the kind, the address, the port.
 */
import { parseAddress } from "../../src/wire/address.ts";
import { HostTcp, LOOPBACK4 } from "../support/host_tcp.ts";
import { HostUdp } from "../support/host_udp.ts";

const [kind, address, port] = Deno.args;
const to = parseAddress(address) as Uint8Array;
const OPEN = 1000;

function connections(): void {
  const open: HostTcp[] = [];
  for (;;) {
    open.push(HostTcp.connect(to, Number(port)));
    if (open.length > OPEN) open.shift()!.reset();
  }
}

function datagrams(): void {
  const host = new HostUdp(LOOPBACK4);
  const data = new Uint8Array(64);
  for (;;) {
    try {
      host.send(data, to, Number(port));
    } catch {
      continue; // the socket's buffer is full
    }
  }
}

console.log("floods");
if (kind === "tcp") connections();
else datagrams();
