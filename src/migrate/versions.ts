/**
 * What is done for each version of the state that moves, as data: before it is sent or
 * taken, and after. Which versions there are and what is in them, src/wire/state says.
 */
import type { MovedState } from "../wire/state/model.ts";
import type { StateFormat } from "../config.ts";
import { PASST_VERSION } from "../wire/state/passt.ts";
import { VERSIONS as OF_VUELO } from "../wire/state/vuelo.ts";
import type { Movable } from "./movable.ts";

/** A step before or after the data; the first that fails ends the transfer. */
export interface Stage {
  readonly name: string;
  /** @returns 0, or an error number */
  readonly run: (guest: Movable, state?: MovedState) => number;
}

/** What is done for one version of one format. */
export interface Version {
  readonly format: StateFormat;
  readonly version: number;
  /** Whether connections are carried; without, they end when the guest has moved. */
  readonly carries: boolean;
  /** At the source: before anything is saved, and after everything was taken. */
  readonly beforeSave: readonly Stage[];
  readonly afterSave: readonly Stage[];
  /** At the target: once the header is judged, and once everything is there. */
  readonly beforeLoad: readonly Stage[];
  readonly afterLoad: readonly Stage[];
}

const freeze: Stage = { name: "freeze", run: (guest) => guest.freeze() };
const restore: Stage = {
  name: "restore",
  run: (guest, state) => state === undefined ? 0 : guest.restore(state),
};

/** What is done for a stream that carries connections, and for one that doesn't. */
const CARRYING = {
  carries: true,
  beforeSave: [freeze],
  afterSave: [],
  beforeLoad: [],
  afterLoad: [restore],
};
const HEADER_ALONE = {
  carries: false,
  beforeSave: [],
  afterSave: [],
  beforeLoad: [],
  afterLoad: [],
};

/** All versions of all formats. */
export const VERSIONS: readonly Version[] = [
  ...OF_VUELO.map(({ version, sections }): Version => ({
    format: "vuelo",
    version,
    ...(sections === undefined ? HEADER_ALONE : CARRYING),
  })),
  { format: "passt", version: PASST_VERSION, ...CARRYING },
];

/** The row of a version, if it is known. */
export function findVersion(format: StateFormat, version: number): Version | undefined {
  return VERSIONS.find((row) => row.format === format && row.version === version);
}

/** The highest version of a format: what a source announces. */
export function newestVersion(format: StateFormat): Version {
  return VERSIONS.filter((row) => row.format === format)
    .reduce((best, row) => row.version > best.version ? row : best);
}
