/** Ping through ping sockets, in a network namespace where they are allowed. */
import { assertEquals } from "@std/assert";

const MTU = 1400;
const CASES = new URL("../../tests/support/ping_cases.ts", import.meta.url).pathname;
const SCRIPT = `
ip link set lo up && echo 0 0 > /proc/sys/net/ipv4/ping_group_range &&
"$0" run --quiet --allow-all --no-check "$1" &&
ip link set lo mtu ${MTU} &&
exec "$0" run --quiet --allow-all --no-check "$1" ${MTU}`;

Deno.test("pings of the guest are echoed; refusals are told by ICMP", async () => {
  const command = new Deno.Command("unshare", {
    args: ["--map-root-user", "--net", "sh", "-c", SCRIPT, Deno.execPath(), CASES],
    stdout: "piped",
    stderr: "piped",
  });
  const { code, stdout, stderr } = await command.output();
  const text = new TextDecoder();
  assertEquals(code, 0, text.decode(stdout) + text.decode(stderr));
});
