/** The configuration that tests of the services start from, and frames as hexadecimal. */
import type { Config } from "../../src/config.ts";
import { flowConfig, ip } from "./flow_config.ts";

export { ip };

export function serviceConfig(changes: Partial<Config> = {}): Config {
  return flowConfig({
    ip4: {
      address: ip("192.0.2.2"),
      prefixLength: 24,
      gateway: ip("192.0.2.1"),
      ourAddress: ip("192.0.2.1"),
      dns: [],
    },
    ip6: {
      address: ip("2001:db8::2"),
      prefixLength: 64,
      gateway: ip("2001:db8::1"),
      ourAddress: ip("2001:db8::1"),
      dns: [ip("2001:db8::53")],
    },
    search: ["example.org"],
    ...changes,
  });
}

export function frameOf(hex: string): DataView<ArrayBuffer> {
  return new DataView(
    Uint8Array.from(hex.match(/../g) ?? [], (h) => parseInt(h, 16)).buffer,
  );
}

export function hexOf(view: DataView, length: number, from = 0): string {
  let hex = "";
  for (let i = from; i < length; i++) {
    hex += view.getUint8(i).toString(16).padStart(2, "0");
  }
  return hex;
}
