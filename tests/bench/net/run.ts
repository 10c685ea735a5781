/** Which cases run behind which frontend. */
import { testpmd } from "../../../scripts/lab/frontends.ts";
import { program, provide, SETS } from "../../../scripts/lab/packages.ts";
import { NET_CASES, type NetCase } from "./cases.ts";
import { compare, type Plan } from "./compare.ts";
import { DPDK } from "./dpdk.ts";
import type { Frontend } from "./frontend.ts";
import { TAP } from "./tap.ts";

interface Part {
  readonly frontend: Frontend;
  readonly mtus: readonly number[];
  readonly cases: readonly NetCase[];
}

/** That figures behind DPDK point the same way, without all of them once more. */
const FEW = /^(TCP (up|down), [18] stream|UDP|TCP request-response$|TCP connect)/;

const PARTS: readonly Part[] = [
  { frontend: TAP, mtus: [1500, 9000, 65_520], cases: NET_CASES },
  {
    frontend: DPDK,
    mtus: [1500, 9000],
    cases: NET_CASES.filter(({ name }) => FEW.test(name)),
  },
];

interface Chosen {
  readonly frontend: Frontend;
  readonly cases: { mtu: number; one: NetCase }[];
}

/** The full name of a case, which a filter is matched with. */
function fullName(frontend: Frontend, mtu: number, name: string): string {
  return `${frontend.name} MTU ${mtu} ${name}`;
}

function choose(wanted: (name: string) => boolean): Chosen[] {
  return PARTS.map(({ frontend, mtus, cases }) => ({
    frontend,
    cases: mtus.flatMap((mtu) =>
      cases
        .filter((one) => one.mtus?.includes(mtu) ?? true)
        .filter((one) => wanted(fullName(frontend, mtu, one.name)))
        .map((one) => ({ mtu, one }))
    ),
  })).filter(({ cases }) => cases.length > 0);
}

/** Compares the plan's contenders in all wanted cases. */
export async function runNative(
  plan: Plan,
  wanted: (name: string) => boolean,
): Promise<void> {
  for (const { frontend, cases } of choose(wanted)) await compare(plan, frontend, cases);
}

/** Fetches what is missing, while the machine's network is at hand. */
export async function fetchAll(): Promise<void> {
  await program("ip");
  await provide(SETS.guest);
  await testpmd();
}
