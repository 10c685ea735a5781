/** `vuelo inspect`: what is in a captured stream of state, and where it is damaged. */
import { StartError, UsageError } from "../errors.ts";
import {
  type Connection,
  type DatagramFlow,
  inspect,
  type Report,
} from "./inspect_report.ts";

const USAGE = `Usage: vuelo inspect [--json] FILE|-

Prints what a stream of state holds that a hypervisor captured when a guest moved, of
vuelo or of passt: header, sections, the guest, connections, flows and forwarding rules.
A damaged stream is printed as far as it can be read; then comes where it breaks.

  --json    for scripts: one object
  -         reads standard input

Exit status: 0 the stream is whole, 1 it is damaged or cannot be read, 2 wrong usage.
`;

const PIECE = 1 << 16;

/**
 * Runs the subcommand.
 *
 * @param args what follows `inspect`
 * @returns exit status: 0 if the stream is whole, 1 if it is damaged
 * @throws {UsageError} for wrong arguments
 * @throws {StartError} if the file cannot be read
 */
export function inspectCommand(args: readonly string[]): number {
  const names: string[] = [];
  let json = false;
  for (const arg of args) {
    if (arg === "--help" || arg === "-h") {
      write(USAGE);
      return 0;
    }
    if (arg === "--json") json = true;
    else if (arg.startsWith("-") && arg !== "-") {
      throw new UsageError(`inspect ${arg}`, "unknown option; see vuelo inspect --help");
    } else names.push(arg);
  }
  if (names.length !== 1) {
    throw new UsageError("inspect", "needs one file, or - for standard input");
  }
  const report = inspect(readStream(names[0]));
  write(json ? JSON.stringify(report, null, 2) + "\n" : formatReport(report));
  return report.damage.length === 0 ? 0 : 1;
}

function readStream(name: string): Uint8Array {
  try {
    return name === "-" ? readAll(Deno.stdin) : Deno.readFileSync(name);
  } catch (error) {
    throw new StartError(`inspect '${name}': ${(error as Error).message}`);
  }
}

function readAll(input: { readSync(into: Uint8Array): number | null }): Uint8Array {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const piece = new Uint8Array(PIECE);
    const count = input.readSync(piece);
    if (count === null) break;
    pieces.push(piece.subarray(0, count));
    length += count;
  }
  const all = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

function write(text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
}

/** The report as text for people, lines of which end with a newline. */
export function formatReport(report: Report): string {
  const lines = [
    describeSource(report),
    ...sectionLines(report),
    ...deviceLines(report),
    ...connectionLines(report.connections),
    ...flowLines(report.flows),
    ...ruleLines(report),
  ];
  for (const { offset, field, expected, came } of report.damage) {
    lines.push("", `BROKEN at byte ${offset}: ${field}`);
    lines.push(`  expected  ${expected}`, `  came      ${came}`);
  }
  return lines.map((line) => `${line.trimEnd()}\n`).join("");
}

function describeSource({ source, length }: Report): string {
  if (source === undefined) return `${length} bytes of no known format`;
  const { format, version, compat, littleEndian, pointerSize, timeSize } = source;
  if (format === "passt") {
    const readers = `readable from version ${compat} on`;
    return `${length} bytes of passt, version ${version}, ${readers}`;
  }
  const order = littleEndian ? "little-endian" : "big-endian";
  const reserved = source.reservedUsed ? ", reserved bytes of the header in use" : "";
  return `${length} bytes of vuelo, version ${version}, ${order}, ` +
    `${pointerSize * 8}-bit pointers, ${timeSize * 8}-bit times${reserved}`;
}

function sectionLines({ sections }: Report): string[] {
  if (sections.length === 0) return [];
  const rows = sections.map(({ type, name, optional, offset, length, crc }) => [
    type,
    name,
    offset,
    length,
    crc,
    optional ? "optional" : "",
  ]);
  return table("Sections", ["TYPE", "NAME", "OFFSET", "BYTES", "CRC32C", ""], rows);
}

function deviceLines({ device }: Report): string[] {
  if (device === undefined) return [];
  const names: Record<string, string> = {
    mac: "MAC",
    address4: "IPv4 seen",
    address6: "IPv6 seen",
    linkLocal6: "link-local",
    mtu: "MTU",
    features: "features",
    lease4: "IPv4 given",
    lease6: "IPv6 given",
    gatewayMac: "gateway's MAC",
    savedAt: "saved at",
  };
  const rows = Object.entries(device).filter(([, value]) => value !== "" && value !== 0);
  return [
    "",
    "Guest",
    ...rows.map(([key, value]) => `  ${names[key].padEnd(15)}${value}`),
  ];
}

function connectionLines(connections: readonly Connection[]): string[] {
  if (connections.length === 0) return [];
  const heads = ["FLOW", "BY", "GUEST", "LOCAL", "PEER", "STATE", "TO PEER", "UNSENT"]
    .concat("TO GUEST", "UNACKED", "PEER WND", "OUR WND", "GUEST WND", "WND TO GUEST");
  const rows = connections.map((one) => [
    one.flow,
    one.openedBy,
    one.guest,
    one.local,
    one.peer,
    stateText(one),
    one.sendQueue,
    one.notSent,
    one.receiveQueue,
    one.underWay,
    one.peerWindow,
    one.ourWindow,
    one.guestWindow,
    one.windowToGuest,
  ]);
  const lost = connections.filter((one) => one.lost !== "");
  return [
    ...table(`TCP connections: ${connections.length}`, heads, rows),
    ...lost.map((one) => `  flow ${one.flow} is lost: ${one.lost}`),
  ];
}

function stateText({ state, guestState, lost }: Connection): string {
  if (lost !== "") return "lost";
  return guestState === "ESTABLISHED" ? state : `${state}, guest ${guestState}`;
}

function flowLines(flows: readonly DatagramFlow[]): string[] {
  if (flows.length === 0) return [];
  const heads = ["FLOW", "KIND", "GUEST", "LOCAL", "PEER", "IDLE MS"];
  const rows = flows.map((
    { flow, kind, guest, local, peer, idle },
  ) => [flow, kind, guest, local, peer, idle]);
  return table(`UDP and ping flows: ${flows.length}`, heads, rows);
}

function ruleLines({ rules }: Report): string[] {
  if (rules.length === 0) return [];
  const heads = ["PROTOCOL", "ADDRESS", "INTERFACE", "PORTS", "GUEST", "GUEST PORT", ""];
  const rows = rules.map((rule) => [
    `${rule.protocol}`,
    `${rule.address || "any"}`,
    `${rule.interface || "any"}`,
    rule.first === rule.last ? `${rule.first}` : `${rule.first}-${rule.last}`,
    `${rule.guestAddress || "its own"}`,
    `${rule.guestFirst}`,
    rule.weak ? "if free" : "",
  ]);
  return table(`Forwarding rules: ${rules.length}`, heads, rows);
}

/** A title and columns as wide as need be; numbers are aligned at the right. */
function table(
  title: string,
  heads: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string[] {
  const widths = heads.map((head, i) =>
    rows.reduce((width, row) => Math.max(width, `${row[i]}`.length), head.length)
  );
  const line = (cells: readonly (string | number)[], right: readonly boolean[]) =>
    "  " +
    cells.map((cell, i) =>
      right[i] ? `${cell}`.padStart(widths[i]) : `${cell}`.padEnd(widths[i])
    ).join("  ");
  const right = heads.map((_, i) => typeof rows[0][i] === "number");
  return ["", title, line(heads, right), ...rows.map((row) => line(row, right))];
}
