/**
 * Formats and versions of the state that moves, as data: what is done before the data is
 * sent or taken, how it is written, and what is done after. A new version is a new row;
 * the old ones keep working.
 */
import type { MovedState } from "../wire/state/model.ts";
import type { StateFormat } from "../config.ts";
import type { Movable } from "./movable.ts";

/** A step before or after the data; the first that fails ends the transfer. */
export interface Stage {
  readonly name: string;
  /** @returns 0, or an error number */
  readonly run: (guest: Movable, state?: MovedState) => number;
}

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

export const VERSIONS: readonly Version[] = [
  {
    format: "vuelo",
    version: 1,
    carries: false,
    beforeSave: [],
    afterSave: [],
    beforeLoad: [],
    afterLoad: [],
  },
  {
    format: "vuelo",
    version: 2,
    carries: true,
    beforeSave: [freeze],
    afterSave: [],
    beforeLoad: [],
    afterLoad: [restore],
  },
  {
    format: "passt",
    version: 2,
    carries: true,
    beforeSave: [freeze],
    afterSave: [],
    beforeLoad: [],
    afterLoad: [restore],
  },
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
