/** Ping through ping sockets, in a network namespace where they are allowed. */
import { assertEquals } from "@std/assert";
import { program } from "../../scripts/lab/packages.ts";

const MTU = 1400;
const CASES = new URL("../../tests/support/ping_cases.ts", import.meta.url).pathname;
/** $0 is deno, $1 the cases, and the rest the command ip. */
const SCRIPT = `
cases=$1; shift
"$@" link set lo up && echo 0 0 > /proc/sys/net/ipv4/ping_group_range &&
"$0" run --quiet --allow-all --no-check "$cases" &&
"$@" link set lo mtu ${MTU} &&
exec "$0" run --quiet --allow-all --no-check "$cases" ${MTU}`;

Deno.test("pings of the guest are echoed; refusals are told by ICMP", async () => {
  const ip = await program("ip");
  const user = Deno.uid() === 0 ? [] : ["--map-root-user"];
  const script = ["sh", "-c", SCRIPT, Deno.execPath(), CASES, ip.path, ...ip.args];
  const { code, stdout, stderr } = await new Deno.Command("unshare", {
    args: [...user, "--net", "--", ...script],
    env: ip.env,
  }).output();
  const text = new TextDecoder();
  assertEquals(code, 0, text.decode(stdout) + text.decode(stderr));
});
