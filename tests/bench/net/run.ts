/** Which cases run behind which frontend. */
import { testpmd, userModeLinux } from "../../../scripts/lab/frontends.ts";
import { image } from "../../../scripts/lab/image.ts";
import { kernel, program, provide, qemu, SETS } from "../../../scripts/lab/packages.ts";
import { NET_CASES, type NetCase } from "./cases.ts";
import { compare, type Plan } from "./compare.ts";
import { DPDK } from "./dpdk.ts";
import type { Frontend } from "./frontend.ts";
import {
  compareMachines,
  iperf3,
  MACHINE_CASES,
  type MachineKind,
  QEMU,
  UML,
} from "./machine.ts";
import { TAP } from "./tap.ts";

interface Part {
  readonly frontend: Frontend;
  readonly mtus: readonly number[];
  readonly cases: readonly NetCase[];
}

/** That figures behind DPDK point the same way, without all of them once more. */
const FEW =
  /^(TCP (up|down), [18] streams?$|UDP|TCP request-response$|TCP connect-request)/;

const PARTS: readonly Part[] = [
  { frontend: TAP, mtus: [1500, 9000, 65_520], cases: NET_CASES },
  {
    frontend: DPDK,
    mtus: [1500, 9000],
    cases: NET_CASES.filter(({ name }) => FEW.test(name)),
  },
];

/** Machines are slow to start, and slow: MTUs at both ends will do. */
const MACHINE_MTUS = [1500, 65_520];
const MACHINES: readonly MachineKind[] = [UML, QEMU];

/** The cases at each MTU whose full names are wanted. */
function choose<C extends { readonly name: string; readonly mtus?: readonly number[] }>(
  frontend: string,
  mtus: readonly number[],
  cases: readonly C[],
  wanted: (name: string) => boolean,
): { mtu: number; one: C }[] {
  return mtus.flatMap((mtu) =>
    cases
      .filter((one) => one.mtus?.includes(mtu) ?? true)
      .filter((one) => wanted(`${frontend} MTU ${mtu} ${one.name}`))
      .map((one) => ({ mtu, one }))
  );
}

/** Compares the plan's contenders in all wanted cases of these levels. */
export async function runNet(
  plan: Plan,
  levels: ReadonlySet<string>,
  wanted: (name: string) => boolean,
): Promise<void> {
  for (const { frontend, mtus, cases } of levels.has("native") ? PARTS : []) {
    const chosen = choose(frontend.name, mtus, cases, wanted);
    if (chosen.length > 0) await compare(plan, frontend, chosen);
  }
  for (const kind of MACHINES.filter(({ level }) => levels.has(level))) {
    const chosen = choose(kind.name, MACHINE_MTUS, MACHINE_CASES, wanted);
    if (chosen.length > 0) await compareMachines(plan, kind, chosen);
  }
}

/** Fetches what is missing, while the machine's network is at hand. */
export async function fetchAll(): Promise<void> {
  await program("ip");
  await provide(SETS.guest);
  await testpmd();
  await iperf3();
  await qemu();
  await image(await kernel(), "full");
  await image((await userModeLinux()).kernel, "full");
}
