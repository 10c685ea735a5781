/** resolv.conf(5) of the host (src/host/resolv_conf.ts), and names on the wire. */
import { parseResolvConf } from "../../../src/host/resolv_conf.ts";
import { formatAddress, parseAddress } from "../../../src/wire/address.ts";
import {
  encodeName,
  encodeNames,
  encodeNamesCompressed,
} from "../../../src/wire/dns_name.ts";
import type { Target } from "../engine/target.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The labels of a name on the wire, pointers followed backwards only (RFC 1035, 4.1.4). */
function namesOf(bytes: Uint8Array): string[] {
  const names: string[] = [];
  for (let at = 0; at < bytes.length;) {
    const labels: string[] = [];
    let [place, end] = [at, -1];
    for (let size = bytes[place]; size !== 0; size = bytes[place]) {
      if (size >= 0xc0) {
        const to = (size & 0x3f) << 8 | bytes[place + 1];
        if (to >= place) throw new Error("a pointer goes forward");
        if (end < 0) end = place + 2;
        place = to;
        continue;
      }
      if (size > 63 || place + size >= bytes.length) throw new Error("a label outside");
      labels.push(decoder.decode(bytes.subarray(place + 1, place + 1 + size)));
      place += 1 + size;
    }
    names.push(labels.join(".").toLowerCase());
    at = end < 0 ? place + 1 : end;
  }
  return names;
}

const target: Target = {
  maxLength: 2048,
  seeds: [
    "nameserver 192.0.2.53\nnameserver 2001:db8::53%eth0\nsearch example.org a.example.org\n",
    "; comment\n# another\ndomain example.com\noptions ndots:2\nnameserver ::1\n",
    "search a.b.c b.c c b.c.\r\nnameserver\t10.0.2.3 \nnameserver ::ffff:1.2.3.4",
  ].map((text) => encoder.encode(text)),
  run(input) {
    const { nameservers, search } = parseResolvConf(decoder.decode(input));
    if (nameservers.length > 3 || search.length > 32) throw new Error("too many");
    for (const address of nameservers) {
      const again = parseAddress(formatAddress(address));
      if (again === undefined || again.toHex() !== address.toHex()) {
        throw new Error(`${formatAddress(address)} is not what was read`);
      }
    }
    const names = search.filter((name) => encodeName(name) !== undefined)
      .map((name) => name.toLowerCase().replace(/\.$/, ""));
    for (const bytes of [encodeNames(search), encodeNamesCompressed(search)]) {
      const read = namesOf(bytes);
      if (JSON.stringify(read) !== JSON.stringify(names)) {
        throw new Error(`${names} became ${read}`);
      }
    }
  },
};
export default target;
