/** What `vuelo inspect` tells of a stream of state, as plain data. */
import { formatAddress, formatMac, isUnspecified } from "../wire/address.ts";
import { bytesUnderWay } from "../wire/state/check.ts";
import { entryBytes } from "../wire/state/entries.ts";
import {
  decode,
  type Progress,
  StateError,
  type StreamSource,
} from "../wire/state/decode.ts";
import { FLOW_WORDS, FlowKind, FlowWord } from "../wire/state/flow_entry.ts";
import type {
  MovedDevice,
  MovedRule,
  MovedState,
  MovedTcp,
} from "../wire/state/model.ts";
import { fromPasst } from "../wire/state/passt_flows.ts";
import { TcpFlow, TcpState, TcpWord } from "../wire/state/tcp_entry.ts";

/** All of a stream that could be read. */
export interface Report {
  readonly length: number;
  readonly source?: StreamSource;
  readonly sections: readonly SectionReport[];
  readonly device?: Record<string, string | number>;
  readonly connections: readonly Connection[];
  readonly flows: readonly DatagramFlow[];
  readonly rules: readonly Record<string, string | number | boolean>[];
  /** Where the stream is damaged; after the last of them it could not be read. */
  readonly damage: readonly Damage[];
}

/** What makes a stream unreadable, and where. */
export interface Damage {
  readonly offset: number;
  readonly field: string;
  readonly expected: string;
  readonly came: string;
}

/** A section of a stream. */
export interface SectionReport {
  readonly type: number;
  readonly name: string;
  readonly optional: boolean;
  readonly offset: number;
  readonly length: number;
  readonly crc: "ok" | "damaged" | "not read";
}

/** Windows and queues are in bytes. */
export interface Connection {
  readonly flow: number;
  readonly openedBy: "guest" | "peer";
  readonly guest: string;
  /** What the guest takes for its peer. */
  readonly guestPeer: string;
  readonly local: string;
  readonly peer: string;
  /** Of the socket. */
  readonly state: string;
  /** Of the connection with the guest. */
  readonly guestState: string;
  readonly sendQueue: number;
  readonly notSent: number;
  readonly receiveQueue: number;
  /** Of the receive queue, what was sent to the guest and is not acknowledged. */
  readonly underWay: number;
  readonly peerWindow: number;
  readonly ourWindow: number;
  readonly guestWindow: number;
  readonly windowToGuest: number;
  /** Why the connection is lost, else "". */
  readonly lost: string;
}

/** A UDP flow or ping. */
export interface DatagramFlow {
  readonly flow: number;
  readonly kind: "UDP" | "ping";
  readonly guest: string;
  readonly guestPeer: string;
  readonly local: string;
  readonly peer: string;
  readonly idle: number;
}

const TCP_STATES: Readonly<Record<number, string>> = {
  1: "ESTABLISHED",
  4: "FIN-WAIT-1",
  5: "FIN-WAIT-2",
  7: "CLOSED",
  8: "CLOSE-WAIT",
  9: "LAST-ACK",
  11: "CLOSING",
};
const GUEST_STATES: Readonly<Record<number, string>> = {
  [TcpState.connecting]: "connecting",
  [TcpState.synAckSent]: "SYN-RECEIVED",
  [TcpState.synSent]: "SYN-SENT",
  [TcpState.established]: "ESTABLISHED",
};

/** Reads a stream as far as it can be read. */
export function inspect(bytes: Uint8Array): Report {
  const damage: Damage[] = [];
  const note = ({ offset, field, expected, came }: StateError) =>
    void damage.push({ offset, field, expected, came });
  const progress: Progress = { damaged: note };
  try {
    decode(bytes, progress);
  } catch (error) {
    if (!(error instanceof StateError)) throw error;
    note(error);
  }
  const { source } = progress;
  const content = progress.passt === undefined ? ofVuelo(progress) : ofPasst(progress);
  const known = source === undefined ? {} : { source };
  return { length: bytes.length, ...known, ...content, damage };
}

type Content = Omit<Report, "length" | "source" | "damage">;
const NOTHING: Content = { sections: [], connections: [], flows: [], rules: [] };

function ofVuelo({ vuelo }: Progress): Content {
  if (vuelo === undefined) return NOTHING;
  const { device, entries = new Int32Array() } = vuelo;
  const records = vuelo.tcp.length > 0 ? vuelo.tcp.map(known) : vuelo.records.map(
    ({ tcp, sendLength, receiveLength }) => ({ ...tcp, sendLength, receiveLength }),
  );
  return {
    sections: vuelo.sections.map(({ type, name, optional, offset, length, intact }) => {
      const crc = intact === undefined ? "not read" : intact ? "ok" : "damaged";
      return { type, name: name ?? "(unknown)", optional, offset, length, crc };
    }),
    ...device === undefined ? {} : { device: describeDevice(device) },
    connections: records.map((record) => connection(entries, record)),
    flows: [...vuelo.udp, ...vuelo.ping].map((flow) => datagramFlow(entries, flow)),
    rules: vuelo.rules.map(describeRule),
  };
}

function ofPasst({ passt }: Progress): Content {
  if (passt?.device === undefined) return NOTHING;
  const { device, flows } = passt;
  const came = passt.sockets.length;
  const sockets = flows.map((_, i) => passt.sockets[i]);
  const state = movedBy({ device, flows, sockets }) ??
    movedBy({ device, flows: [], sockets: [] });
  if (state === undefined) return NOTHING;
  const { entries } = state;
  const connections = state.tcp.map((record, i) => {
    const lost = i < came ? record.lost : "its socket record is missing";
    return connection(entries, { ...known(record), lost });
  });
  return { ...NOTHING, device: describeDevice(state.device), connections };
}

function movedBy(content: Parameters<typeof fromPasst>[0]): MovedState | undefined {
  try {
    return fromPasst(content);
  } catch (error) {
    if (error instanceof StateError) return undefined;
    throw error;
  }
}

/** A record with the lengths of its queues in place of these. */
type Known = Omit<MovedTcp, "lost" | "sendQueue" | "receiveQueue"> & {
  readonly lost?: string;
  readonly sendLength: number;
  readonly receiveLength: number;
};

function known(record: MovedTcp): Known {
  const { sendQueue, receiveQueue } = record;
  return { ...record, sendLength: sendQueue.length, receiveLength: receiveQueue.length };
}

function connection(entries: Int32Array<ArrayBuffer>, record: Known): Connection {
  const { flow, state, notSent, sndWnd, rcvWnd } = record;
  const at = flow * FLOW_WORDS;
  const kind = entries[at + FlowWord.kind];
  const windows = entries[at + TcpWord.windows];
  const counts = entries[at + TcpWord.counts];
  const unsaved = state === 0;
  const lost = record.lost ?? (unsaved ? "the source could not save it" : "");
  return {
    flow,
    openedBy: (kind & TcpFlow.inbound) !== 0 ? "peer" : "guest",
    ...sides(entries, flow),
    state: TCP_STATES[state] ?? "unknown",
    guestState: GUEST_STATES[(kind >>> 8) & 0xff] ?? "unknown",
    sendQueue: unsaved ? 0 : record.sendLength,
    notSent,
    receiveQueue: record.receiveLength,
    underWay: Math.max(0, bytesUnderWay(entries, flow)),
    peerWindow: sndWnd,
    ourWindow: rcvWnd,
    guestWindow: (windows & 0xffff) * 2 ** (counts & 0xff),
    windowToGuest: (windows >>> 16) * 2 ** ((counts >>> 8) & 0xff),
    lost,
  };
}

function datagramFlow(
  entries: Int32Array<ArrayBuffer>,
  { flow, idle }: { readonly flow: number; readonly idle: number },
): DatagramFlow {
  const kind = entries[flow * FLOW_WORDS] & 0xff;
  const name = kind === FlowKind.udp ? "UDP" : "ping";
  return { flow, kind: name, ...sides(entries, flow), idle };
}

function sides(entries: Int32Array<ArrayBuffer>, flow: number) {
  const at = flow * FLOW_WORDS;
  const guestPorts = entries[at + FlowWord.guestPorts];
  const hostPorts = entries[at + FlowWord.hostPorts];
  const end = (word: number, port: number) =>
    endpoint(entryBytes(entries), (at + word) * 4, port);
  return {
    guest: end(FlowWord.guestEndpoint, guestPorts & 0xffff),
    guestPeer: end(FlowWord.guestOur, guestPorts >>> 16),
    local: end(FlowWord.hostOur, hostPorts >>> 16),
    peer: end(FlowWord.hostEndpoint, hostPorts & 0xffff),
  };
}

function endpoint(bytes: Uint8Array, at: number, port: number): string {
  const text = formatAddress(bytes, at);
  return text.includes(":") ? `[${text}]:${port}` : `${text}:${port}`;
}

function describeDevice(device: MovedDevice): Record<string, string | number> {
  const address = (bytes: Uint8Array) => isUnspecified(bytes) ? "" : formatAddress(bytes);
  const hex = (word: number) => word.toString(16).padStart(8, "0");
  return {
    mac: formatMac(device.mac),
    address4: address(device.address4),
    address6: address(device.address6),
    linkLocal6: address(device.linkLocal6),
    mtu: device.mtu,
    features: device.featuresHi === 0 && device.featuresLo === 0
      ? ""
      : `0x${hex(device.featuresHi)}${hex(device.featuresLo)}`,
    lease4: lease(address(device.lease4), device.lease4Prefix),
    lease6: lease(address(device.lease6), device.lease6Prefix),
    gatewayMac: device.ourMac.some((byte) => byte !== 0) ? formatMac(device.ourMac) : "",
    savedAt: device.savedAt === 0 ? "" : timeText(device.savedAt),
  };
}

function lease(address: string, prefixLength: number): string {
  return address === "" ? "" : `${address}/${prefixLength}`;
}

function timeText(seconds: number): string {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? `${seconds} s` : date.toISOString();
}

function describeRule(rule: MovedRule): Record<string, string | number | boolean> {
  const { address, guestAddress } = rule;
  return {
    protocol: rule.protocol,
    address: address === undefined ? "" : formatAddress(address),
    interface: rule.interface ?? "",
    first: rule.first,
    last: rule.last,
    guestFirst: rule.guestFirst,
    guestAddress: guestAddress === undefined ? "" : formatAddress(guestAddress),
    weak: rule.weak,
  };
}
