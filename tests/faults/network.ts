/**
 * A network namespace with nothing but loopback, where pings are allowed, and which has
 * addresses that vuelo does not take for the host's own. AWAY of world.ts is their list,
 * too; this module loads nothing of ffi.
 */
import { program } from "../../scripts/lab/packages.ts";

const MARK = "VUELO_FAULTS_NETWORK";
const ADDRESSES = ["198.51.100.7/32", "2001:db8:7::7/128"];
/** The guest's, which it is announced at. */
const GUESTS = ["192.0.2.10/32", "2001:db8::10/128"];
const MTU = 1400;
/** $0 is what is run there, and the command ip what stands before `--`. */
const SCRIPT = `
ip() { "$IP" $IP_ARGS "$@"; }
ip link set lo mtu ${MTU} up
for address in ${
  [...ADDRESSES, ...GUESTS].join(" ")
}; do ip addr add $address dev lo; done
range=/proc/sys/net/ipv4/ping_group_range
echo 0 2147483647 2>/dev/null > $range || echo 0 0 > $range
exec "$@"`;

/** Has the program go on in such a namespace; the process outside ends as it does. */
export async function enterNetwork(module: string): Promise<void> {
  if (Deno.env.get(MARK) !== undefined) return;
  const ip = await program("ip");
  const user = Deno.uid() === 0 ? [] : ["--map-root-user"];
  const again = [Deno.execPath(), "run", "--allow-all", module, ...Deno.args];
  const { code } = await new Deno.Command("unshare", {
    args: [...user, "--net", "--", "sh", "-ec", SCRIPT, "sh", ...again],
    env: { ...ip.env, IP: ip.path, IP_ARGS: ip.args.join(" "), [MARK]: "1" },
  }).spawn().status;
  Deno.exit(code);
}
