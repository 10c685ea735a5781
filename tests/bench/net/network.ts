/** The network of a benchmark: the tests' own, with the kernel's defaults for TCP. */
import { program } from "../../../scripts/lab/packages.ts";
import { run, until } from "../../support/lab_process.ts";
import { IPV4, Network } from "../../support/netns.ts";

/** Of the wire between the host and the peer; the host's kernel segments as it likes. */
const WIRE_MTU = 1500;
/** Whatever this machine was tuned to. */
const SETTINGS: readonly [path: string, value: string][] = [
  ["ipv4/tcp_rmem", "4096 131072 6291456"],
  ["ipv4/tcp_wmem", "4096 16384 4194304"],
  ["ipv4/ip_local_port_range", "10240 65535"],
];
/** By route, as a namespace may not choose it where the machine's default is another. */
const CONTROL = "congctl cubic";

/** Where each side is reached: the host has the guest's address. */
export const ADDRESS = { guest: IPV4.host, peer: IPV4.peer } as const;

/** Runs `ip` with words of a line, in a namespace. */
export async function ip(namespace: string, line: string): Promise<string> {
  const { path, args, env } = await program("ip");
  return await run([path, ...args, "-n", namespace, ...line.split(" ")], { env });
}

/** Sets what a namespace starts out with. */
export async function prepareNamespace(namespace: string): Promise<void> {
  const script = SETTINGS
    .map(([path, value]) => `echo "${value}" > /proc/sys/net/${path}`);
  await run(["sh", "-c", script.join(" && ")], { namespace });
}

export async function createNetwork(): Promise<Network> {
  const network = await Network.create(WIRE_MTU);
  await prepareNamespace(network.host);
  await prepareNamespace(network.peer);
  const { host, prefix, gateway } = IPV4;
  const link = network.hostLink;
  await ip(network.host, `route change default via ${gateway} dev ${link} ${CONTROL}`);
  const net = `${host.slice(0, host.lastIndexOf("."))}.0/${prefix}`;
  const back = `route change ${net} dev ${network.peerLink} proto kernel scope link`;
  await ip(network.peer, `${back} src ${gateway} ${CONTROL}`);
  return network;
}

/** Gives a guest's link the address that it would get by DHCP, and its routes. */
export async function addressLink(namespace: string, link: string): Promise<void> {
  await ip(namespace, `addr replace ${IPV4.host}/${IPV4.prefix} dev ${link}`);
  await ip(namespace, `route replace default via ${IPV4.gateway} dev ${link} ${CONTROL}`);
}

/** Waits until a guest's link is gone with its frontend. */
export async function linkGone(namespace: string, link: string): Promise<void> {
  await until("the link is gone", async () => {
    return !(await ip(namespace, "link show")).includes(`${link}:`);
  });
}

/** Frames that a guest's link has dropped, as it had no room for them. */
export async function droppedBy(namespace: string, link: string): Promise<number> {
  const text = await ip(namespace, `-s -j link show dev ${link}`);
  return JSON.parse(text)[0].stats64.tx.dropped as number;
}
