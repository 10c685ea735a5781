import { assert, assertEquals } from "@std/assert";
import { formatAddress } from "../wire/address.ts";
import { isDomain, parseResolvConf } from "./resolv_conf.ts";

function parse(text: string) {
  const { nameservers, search } = parseResolvConf(text);
  return { nameservers: nameservers.map((address) => formatAddress(address)), search };
}

Deno.test("resolvers and search list", () => {
  // As systemd-resolved writes its stub file.
  const text = "# comment\n; another\nnameserver 127.0.0.53\noptions edns0 trust-ad\n" +
    "search lan example.org.\n";
  assertEquals(parse(text), {
    nameservers: ["127.0.0.53"],
    search: ["lan", "example.org."],
  });
});

Deno.test("spaces, tabs and line ends don't matter", () => {
  assertEquals(parse("nameserver\t2001:db8::53  \r\n  nameserver 192.0.2.53"), {
    nameservers: ["2001:db8::53", "192.0.2.53"],
    search: [],
  });
});

Deno.test("the first three resolvers count, and the last of search and domain", () => {
  const text = "domain one\nsearch two three\ndomain four\n" +
    [1, 2, 3, 4].map((n) => `nameserver 192.0.2.${n}`).join("\n");
  assertEquals(parse(text), {
    nameservers: ["192.0.2.1", "192.0.2.2", "192.0.2.3"],
    search: ["four"],
  });
});

Deno.test("what is no address and what has a zone is left out", () => {
  const text = "nameserver fe80::1%eth0\nnameserver name\nnameserver\nnameserver ::1\n" +
    "search a..b ok -bad\nnameserverx 192.0.2.1\n";
  assertEquals(parse(text), { nameservers: ["::1"], search: ["ok"] });
});

Deno.test("names are bounded as the DNS bounds them", () => {
  assert(isDomain("a".repeat(63) + ".example"));
  assert(!isDomain("a".repeat(64) + ".example"));
  assert(!isDomain(""));
  assert(!isDomain("a".repeat(60).concat(".").repeat(5)));
});
